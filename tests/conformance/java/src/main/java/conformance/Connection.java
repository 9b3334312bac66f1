package conformance;

import io.github.centrifugal.centrifuge.Client;
import io.github.centrifugal.centrifuge.ConnectedEvent;
import io.github.centrifugal.centrifuge.ConnectingEvent;
import io.github.centrifugal.centrifuge.DisconnectedEvent;
import io.github.centrifugal.centrifuge.EventListener;
import io.github.centrifugal.centrifuge.MessageEvent;
import io.github.centrifugal.centrifuge.Options;
import io.github.centrifugal.centrifuge.ServerPublicationEvent;
import io.github.centrifugal.centrifuge.ServerSubscribedEvent;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;

/** A client of the SDK whose events are in queues. */
final class Connection extends EventListener {
    private static final List<Client> CLIENTS = new ArrayList<>();

    final Client client;
    final BlockingQueue<ConnectingEvent> connecting = new LinkedBlockingQueue<>();
    final BlockingQueue<ConnectedEvent> connected = new LinkedBlockingQueue<>();
    final BlockingQueue<DisconnectedEvent> disconnected = new LinkedBlockingQueue<>();
    final BlockingQueue<MessageEvent> messages = new LinkedBlockingQueue<>();
    final BlockingQueue<ServerSubscribedEvent> subscribed = new LinkedBlockingQueue<>();
    final BlockingQueue<ServerPublicationEvent> publications = new LinkedBlockingQueue<>();
    /** The id that the server has given to the client. */
    String id;

    Connection(Options options) {
        options.setMinReconnectDelay(20);
        options.setMaxReconnectDelay(200);
        String address = "ws://" + System.getenv("ADDRESS") + "/connection/websocket";
        client = new Client(address, options, this);
        CLIENTS.add(client);
    }

    /** Return a connected client; the user id may be empty. */
    static Connection of(String user) throws InterruptedException {
        Options options = new Options();
        options.setData(Checks.bytes("{\"user\":\"" + user + "\"}"));
        Connection connection = new Connection(options);
        connection.client.connect();
        connection.id = Checks.next(connection.connected, "connected event").getClient();
        Checks.next(connection.connecting, "connecting event");
        return connection;
    }

    /** Close all clients. */
    static void closeAll() throws InterruptedException {
        for (Client client : CLIENTS) {
            client.disconnect();
            client.close(1000);
        }
        CLIENTS.clear();
    }

    @Override
    public void onConnecting(Client client, ConnectingEvent event) {
        connecting.add(event);
    }

    @Override
    public void onConnected(Client client, ConnectedEvent event) {
        connected.add(event);
    }

    @Override
    public void onDisconnected(Client client, DisconnectedEvent event) {
        disconnected.add(event);
    }

    @Override
    public void onMessage(Client client, MessageEvent event) {
        messages.add(event);
    }

    @Override
    public void onSubscribed(Client client, ServerSubscribedEvent event) {
        subscribed.add(event);
    }

    @Override
    public void onPublication(Client client, ServerPublicationEvent event) {
        publications.add(event);
    }
}
