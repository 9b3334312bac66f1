package conformance;

import io.github.centrifugal.centrifuge.ConnectionTokenEvent;
import io.github.centrifugal.centrifuge.ConnectionTokenGetter;
import io.github.centrifugal.centrifuge.SubscriptionTokenEvent;
import io.github.centrifugal.centrifuge.SubscriptionTokenGetter;
import io.github.centrifugal.centrifuge.TokenCallback;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;

/** Gets tokens of a user for the SDK; each is valid for two seconds. */
final class Tokens {
    /** The number of each request for a token. */
    final BlockingQueue<Integer> requests = new LinkedBlockingQueue<>();

    private final boolean firstExpired;
    private int count;

    Tokens(boolean firstExpired) {
        this.firstExpired = firstExpired;
    }

    ConnectionTokenGetter forConnections() {
        return new ConnectionTokenGetter() {
            @Override
            public void getConnectionToken(ConnectionTokenEvent event, TokenCallback callback) {
                get("", callback);
            }
        };
    }

    SubscriptionTokenGetter forSubscriptions() {
        return new SubscriptionTokenGetter() {
            @Override
            public void getSubscriptionToken(
                    SubscriptionTokenEvent event, TokenCallback callback) {
                get("&channel=" + event.getChannel(), callback);
            }
        };
    }

    /** Wait until the SDK has requested this number of tokens. */
    void waitFor(int number) throws InterruptedException {
        while (Checks.next(requests, "request for a token") < number) {
            continue;
        }
    }

    private synchronized void get(String query, TokenCallback callback) {
        count += 1;
        requests.add(count);
        String ttl = firstExpired && count == 1 ? "-5" : "2";
        try {
            callback.Done(null, Server.user("GET", "dan", "token?ttl=" + ttl + query));
        } catch (Exception error) {
            callback.Done(error, "");
        }
    }
}
