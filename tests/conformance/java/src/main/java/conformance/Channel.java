package conformance;

import io.github.centrifugal.centrifuge.DuplicateSubscriptionException;
import io.github.centrifugal.centrifuge.JoinEvent;
import io.github.centrifugal.centrifuge.LeaveEvent;
import io.github.centrifugal.centrifuge.PublicationEvent;
import io.github.centrifugal.centrifuge.SubscribedEvent;
import io.github.centrifugal.centrifuge.Subscription;
import io.github.centrifugal.centrifuge.SubscriptionEventListener;
import io.github.centrifugal.centrifuge.SubscriptionOptions;
import io.github.centrifugal.centrifuge.UnsubscribedEvent;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;

/** A subscription of the SDK whose events are in queues. */
final class Channel extends SubscriptionEventListener {
    final Subscription subscription;
    final BlockingQueue<SubscribedEvent> subscribed = new LinkedBlockingQueue<>();
    final BlockingQueue<UnsubscribedEvent> unsubscribed = new LinkedBlockingQueue<>();
    final BlockingQueue<PublicationEvent> publications = new LinkedBlockingQueue<>();
    final BlockingQueue<JoinEvent> joins = new LinkedBlockingQueue<>();
    final BlockingQueue<LeaveEvent> leaves = new LinkedBlockingQueue<>();

    Channel(Connection connection, String name, SubscriptionOptions options)
            throws DuplicateSubscriptionException {
        subscription = connection.client.newSubscription(name, options, this);
    }

    /** Return a subscription that the server has confirmed. */
    static Channel of(Connection connection, String name, SubscriptionOptions options)
            throws DuplicateSubscriptionException, InterruptedException {
        Channel channel = new Channel(connection, name, options);
        channel.subscription.subscribe();
        Checks.next(channel.subscribed, "subscribed event");
        return channel;
    }

    static Channel of(Connection connection, String name)
            throws DuplicateSubscriptionException, InterruptedException {
        return of(connection, name, new SubscriptionOptions());
    }

    /** Return the next publication, and check its data. */
    PublicationEvent receive(String data) throws InterruptedException {
        PublicationEvent event = Checks.next(publications, "publication " + data);
        Checks.equal(data, Checks.text(event.getData()));
        return event;
    }

    @Override
    public void onSubscribed(Subscription subscription, SubscribedEvent event) {
        subscribed.add(event);
    }

    @Override
    public void onUnsubscribed(Subscription subscription, UnsubscribedEvent event) {
        unsubscribed.add(event);
    }

    @Override
    public void onPublication(Subscription subscription, PublicationEvent event) {
        publications.add(event);
    }

    @Override
    public void onJoin(Subscription subscription, JoinEvent event) {
        joins.add(event);
    }

    @Override
    public void onLeave(Subscription subscription, LeaveEvent event) {
        leaves.add(event);
    }
}
