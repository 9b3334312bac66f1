package conformance;

import io.github.centrifugal.centrifuge.HistoryOptions;
import io.github.centrifugal.centrifuge.HistoryResult;
import io.github.centrifugal.centrifuge.Options;
import io.github.centrifugal.centrifuge.PresenceResult;
import io.github.centrifugal.centrifuge.PresenceStatsResult;
import io.github.centrifugal.centrifuge.Publication;
import io.github.centrifugal.centrifuge.PublicationEvent;
import io.github.centrifugal.centrifuge.PublishResult;
import io.github.centrifugal.centrifuge.RPCResult;
import io.github.centrifugal.centrifuge.ServerPublicationEvent;
import io.github.centrifugal.centrifuge.ServerSubscribedEvent;
import io.github.centrifugal.centrifuge.StreamPosition;
import io.github.centrifugal.centrifuge.SubscribedEvent;
import io.github.centrifugal.centrifuge.SubscriptionOptions;
import io.github.centrifugal.centrifuge.UnsubscribedEvent;
import java.lang.reflect.Method;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * Tests the official Java SDK against a server of this project.
 *
 * <p>The program prints {@code ok} and the name of each feature that works, and {@code absent}
 * and the name of each feature that the SDK does not have. tests/conformance/test_java_sdk.py
 * starts it; controlled_server.py explains the variables of the environment.
 */
public final class Features {
    private static final Map<String, Scenario> SCENARIOS = new LinkedHashMap<>();
    /** Features without a scenario, and the setter of a subscription of an SDK that has it. */
    private static final Map<String, String> ABSENT = new LinkedHashMap<>();

    static {
        SCENARIOS.put("connect", Features::connect);
        SCENARIOS.put("subscribe", Features::subscribe);
        SCENARIOS.put("publish", Features::publish);
        SCENARIOS.put("presence", Features::presence);
        SCENARIOS.put("joins", Features::joins);
        SCENARIOS.put("history", Features::history);
        SCENARIOS.put("rpc", Features::rpc);
        SCENARIOS.put("messages", Features::messages);
        SCENARIOS.put("server_subscriptions", Features::serverSubscriptions);
        SCENARIOS.put("codes", Features::codes);
        SCENARIOS.put("tokens", Features::tokens);
        SCENARIOS.put("subscription_tokens", Features::subscriptionTokens);
        SCENARIOS.put("recovery", Features::recovery);
        SCENARIOS.put("restart", Features::restart);
        SCENARIOS.put("finish", Features::finish);
        ABSENT.put("since", "setSince");
        ABSENT.put("state", "setStateGetter");
        ABSENT.put("filter", "setTagsFilter");
        ABSENT.put("delta", "setDelta");
    }

    private Features() {}

    public static void main(String[] arguments) throws InterruptedException {
        int failed = 0;
        for (Map.Entry<String, Scenario> feature : SCENARIOS.entrySet()) {
            try {
                feature.getValue().run();
                System.out.println("ok " + feature.getKey());
            } catch (Exception | AssertionError error) {
                failed += 1;
                System.out.println("failed " + feature.getKey());
                error.printStackTrace();
            } finally {
                Connection.closeAll();
            }
        }
        for (Map.Entry<String, String> feature : ABSENT.entrySet()) {
            if (hasOption(feature.getValue())) {
                failed += 1;
                System.out.println("write a scenario for " + feature.getKey());
            } else {
                System.out.println("absent " + feature.getKey());
            }
        }
        System.exit(failed);
    }

    /** Return whether a subscription has a setter of this name. */
    private static boolean hasOption(String name) {
        for (Method method : SubscriptionOptions.class.getMethods()) {
            if (method.getName().equals(name)) {
                return true;
            }
        }
        return false;
    }

    private static void connect() throws Exception {
        Connection connection = Connection.of("ann");
        Checks.equal(true, connection.id.length() >= 20);
        connection.client.disconnect();
        Checks.next(connection.disconnected, "disconnected event");
    }

    private static void subscribe() throws Exception {
        Channel channel = Channel.of(Connection.of(""), "rooms:subscribe");
        Server.publish("subscribe?level=info", "\"é ✓\"");
        PublicationEvent event = channel.receive("\"é ✓\"");
        Checks.equal(1L, event.getOffset());
        Checks.equal(Map.of("level", "info"), event.getTags());
        channel.subscription.unsubscribe();
        Checks.next(channel.unsubscribed, "unsubscribed event");
    }

    private static void publish() throws Exception {
        Connection connection = Connection.of("ann");
        Channel channel = Channel.of(connection, "rooms:publish");
        byte[] data = Checks.bytes("{\"text\":\"hello\"}");
        Checks.<PublishResult>call(done -> channel.subscription.publish(data, done));
        PublicationEvent event = channel.receive("{\"text\":\"hello\"}");
        Checks.equal(connection.id, event.getInfo().getClient());
        Checks.equal("ann", event.getInfo().getUser());
        Checks.equal("{\"name\":\"ann\"}", Checks.text(event.getInfo().getConnInfo()));
        byte[] bad = Checks.bytes("\"refuse\"");
        Checks.<PublishResult>refused(103, done -> channel.subscription.publish(bad, done));
        Checks.<PublishResult>refused(
                103, done -> connection.client.publish("rooms:other", data, done));
    }

    private static void presence() throws Exception {
        Connection ann = Connection.of("ann");
        Channel channel = Channel.of(ann, "rooms:presence");
        Connection bob = Connection.of("bob");
        Channel.of(bob, "rooms:presence");
        PresenceResult present = Checks.call(channel.subscription::presence);
        Checks.equal(2, present.getClients().size());
        Checks.equal("bob", present.getClients().get(bob.id).getUser());
        PresenceStatsResult stats = Checks.call(channel.subscription::presenceStats);
        Checks.equal(List.of(2, 2), List.of(stats.getNumClients(), stats.getNumUsers()));
        Checks.<PresenceResult>refused(103, done -> ann.client.presence("rooms:other", done));
    }

    private static void joins() throws Exception {
        SubscriptionOptions options = new SubscriptionOptions();
        options.setJoinLeave(true);
        Connection ann = Connection.of("ann");
        Channel channel = Channel.of(ann, "rooms:joins", options);
        Checks.equal(ann.id, Checks.next(channel.joins, "join").getInfo().getClient());
        Connection bob = Connection.of("bob");
        Channel.of(bob, "rooms:joins");
        Checks.equal(bob.id, Checks.next(channel.joins, "join").getInfo().getClient());
        bob.client.disconnect();
        Checks.equal(bob.id, Checks.next(channel.leaves, "leave").getInfo().getClient());
    }

    private static void history() throws Exception {
        Channel channel = Channel.of(Connection.of(""), "rooms:history");
        for (int n = 1; n <= 5; n++) {
            Server.publish("history", n);
        }
        HistoryOptions.Builder all = new HistoryOptions.Builder().withLimit(-1);
        Checks.equal(List.of(1L, 2L, 3L, 4L, 5L), offsets(channel, all));
        HistoryOptions.Builder newest =
                new HistoryOptions.Builder().withLimit(2).withReverse(true);
        Checks.equal(List.of(5L, 4L), offsets(channel, newest));
        HistoryOptions none = new HistoryOptions.Builder().build();
        HistoryResult top = Checks.call(done -> channel.subscription.history(none, done));
        Checks.equal(0, top.getPublications().size());
        Checks.equal(5L, top.getOffset());
        HistoryOptions.Builder later = new HistoryOptions.Builder()
                .withLimit(10)
                .withSince(new StreamPosition(3, top.getEpoch()));
        Checks.equal(List.of(4L, 5L), offsets(channel, later));
        HistoryOptions lost =
                new HistoryOptions.Builder().withSince(new StreamPosition(3, "other")).build();
        Checks.<HistoryResult>refused(112, done -> channel.subscription.history(lost, done));
    }

    private static List<Long> offsets(Channel channel, HistoryOptions.Builder options)
            throws Exception {
        HistoryResult page =
                Checks.call(done -> channel.subscription.history(options.build(), done));
        List<Long> offsets = new ArrayList<>();
        for (Publication publication : page.getPublications()) {
            long offset = publication.getOffset();
            Checks.equal(String.valueOf(offset), Checks.text(publication.getData()));
            offsets.add(offset);
        }
        return offsets;
    }

    private static void rpc() throws Exception {
        Connection connection = Connection.of("");
        byte[] numbers = Checks.bytes("[1,2,3]");
        RPCResult result = Checks.call(done -> connection.client.rpc("sum", numbers, done));
        Checks.equal("{\"sum\":6}", Checks.text(result.getData()));
        Checks.<RPCResult>refused(100, done -> connection.client.rpc("fail", numbers, done));
        Checks.<RPCResult>refused(104, done -> connection.client.rpc("unknown", numbers, done));
    }

    private static void messages() throws Exception {
        Connection connection = Connection.of("");
        byte[] hello = Checks.bytes("\"hello\"");
        Checks.<Void>call(done ->
                connection.client.send(hello, error -> done.onDone(error, null)));
        Checks.equal(
                "\"echo\"", Checks.text(Checks.next(connection.messages, "message").getData()));
    }

    private static void serverSubscriptions() throws Exception {
        Connection connection = Connection.of("cat");
        ServerSubscribedEvent event = Checks.next(connection.subscribed, "subscribed event");
        Checks.equal("#cat", event.getChannel());
        Checks.equal(true, event.getRecoverable());
        Server.user("POST", "cat", "publish");
        ServerPublicationEvent publication =
                Checks.next(connection.publications, "publication");
        Checks.equal("#cat", publication.getChannel());
        Checks.equal("\"to cat\"", Checks.text(publication.getData()));
    }

    private static void codes() throws Exception {
        Connection connection = Connection.of("fay");
        Map<String, Integer> refused = Map.of("rooms:secret", 103, "nowhere", 102);
        for (Map.Entry<String, Integer> entry : refused.entrySet()) {
            Channel channel =
                    new Channel(connection, entry.getKey(), new SubscriptionOptions());
            channel.subscription.subscribe();
            Checks.equal(entry.getValue(), endCode(channel));
        }
        Channel channel = Channel.of(connection, "rooms:codes");
        Server.user("POST", "fay", "revoke?channel=rooms:codes");
        Checks.equal(2000, endCode(channel));
        channel.subscription.subscribe();
        Checks.equal(103, endCode(channel));
        Server.user("POST", "fay", "disconnect?code=4000");
        Checks.equal(4000, Checks.next(connection.connecting, "connecting event").getCode());
        Checks.next(connection.connected, "connected event");
        Server.user("POST", "fay", "disconnect?code=4500");
        Checks.equal(
                4500, Checks.next(connection.disconnected, "disconnected event").getCode());
    }

    private static int endCode(Channel channel) throws InterruptedException {
        return Checks.next(channel.unsubscribed, "unsubscribed event").getCode();
    }

    private static void tokens() throws Exception {
        Tokens tokens = new Tokens(true);
        Options options = new Options();
        options.setTokenGetter(tokens.forConnections());
        Connection connection = new Connection(options);
        connection.client.connect();
        Checks.next(connection.connected, "connected event");
        Checks.equal(
                "#dan", Checks.next(connection.subscribed, "subscribed event").getChannel());
        tokens.waitFor(3);
        byte[] numbers = Checks.bytes("[4]");
        Checks.<RPCResult>call(done -> connection.client.rpc("sum", numbers, done));
        Checks.equal(0, connection.connected.size());
        Options forged = new Options();
        forged.setToken("x.y.z");
        Connection refused = new Connection(forged);
        refused.client.connect();
        Checks.equal(3500, Checks.next(refused.disconnected, "disconnected event").getCode());
    }

    private static void subscriptionTokens() throws Exception {
        Options options = new Options();
        options.setToken(Server.user("GET", "dan", "token"));
        Connection connection = new Connection(options);
        connection.client.connect();
        Channel without = new Channel(connection, "rooms:token", new SubscriptionOptions());
        without.subscription.subscribe();
        Checks.equal(103, endCode(without));
        connection.client.removeSubscription(without.subscription);
        Tokens tokens = new Tokens(false);
        SubscriptionOptions withToken = new SubscriptionOptions();
        withToken.setTokenGetter(tokens.forSubscriptions());
        Channel channel = Channel.of(connection, "rooms:token", withToken);
        tokens.waitFor(2);
        byte[] data = Checks.bytes("\"still there\"");
        Checks.<PublishResult>call(done -> channel.subscription.publish(data, done));
        channel.receive("\"still there\"");
        Checks.equal(0, channel.subscribed.size());
    }

    private static void recovery() throws Exception {
        Connection connection = Connection.of("");
        Channel channel = Channel.of(connection, "rooms:recovery");
        Server.publish("recovery", 0);
        channel.receive("0");
        Server.control("cut");
        Checks.next(connection.connecting, "connecting event");
        for (int n = 1; n <= 20; n++) {
            Server.publish("recovery", n);
        }
        Server.control("mend");
        SubscribedEvent event = Checks.next(channel.subscribed, "subscribed event");
        Checks.equal(
                List.of(true, true), List.of(event.wasRecovering(), event.getRecovered()));
        Server.publish("recovery", 21);
        for (int n = 1; n <= 21; n++) {
            channel.receive(String.valueOf(n));
        }
    }

    private static void restart() throws Exception {
        Channel channel = Channel.of(Connection.of(""), "rooms:restart");
        Server.publish("restart", "\"before\"");
        channel.receive("\"before\"");
        Server.control("restart");
        SubscribedEvent event = Checks.next(channel.subscribed, "subscribed event");
        Checks.equal(
                List.of(true, false), List.of(event.wasRecovering(), event.getRecovered()));
        Server.publish("restart", "\"after\"");
        Checks.equal(1L, channel.receive("\"after\"").getOffset());
    }

    private static void finish() throws Exception {
        Connection connection = Connection.of("");
        Channel channel = Channel.of(connection, "rooms:finish");
        Server.finish("finish?data=end");
        channel.receive("\"end\"");
        Checks.equal(2400, endCode(channel));
        Channel failing = Channel.of(connection, "rooms:fail");
        Server.publish("fail", 0);
        failing.receive("0");
        Server.control("cut");
        Checks.next(connection.connecting, "connecting event");
        Server.publish("fail", 1);
        Server.finish("fail?data=2&error=overloaded");
        Server.control("mend");
        SubscribedEvent event = Checks.next(failing.subscribed, "subscribed event");
        Checks.equal(
                List.of(true, true), List.of(event.wasRecovering(), event.getRecovered()));
        failing.receive("1");
        failing.receive("\"2\"");
        UnsubscribedEvent end = Checks.next(failing.unsubscribed, "unsubscribed event");
        Checks.equal(2401, end.getCode());
        Checks.equal("overloaded", end.getReason());
    }
}
