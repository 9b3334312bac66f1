package conformance;

import java.io.IOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;

/** Requests to the server without the proxy, and to the control port. */
final class Server {
    private static final HttpClient HTTP =
            HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();

    private Server() {}

    /** Cut, mend or restart the server. */
    static void control(String command) throws IOException, InterruptedException {
        request("POST", System.getenv("CONTROL") + "/" + command, "");
    }

    /** Publish from the server; the data is JSON. */
    static void publish(String room, Object json) throws IOException, InterruptedException {
        request("POST", System.getenv("SERVER") + "/rooms/" + room, json.toString());
    }

    /** End the channel of a room. */
    static void finish(String room) throws IOException, InterruptedException {
        request("DELETE", System.getenv("SERVER") + "/rooms/" + room, "");
    }

    /** Send a command about a user to the server, and return the answer. */
    static String user(String method, String name, String command)
            throws IOException, InterruptedException {
        return request(method, System.getenv("SERVER") + "/users/" + name + "/" + command, "");
    }

    private static String request(String method, String address, String body)
            throws IOException, InterruptedException {
        HttpRequest request = HttpRequest.newBuilder(URI.create(address))
                .header("Content-Type", "application/json")
                .method(method, HttpRequest.BodyPublishers.ofString(body))
                .build();
        HttpResponse<String> response = HTTP.send(request, HttpResponse.BodyHandlers.ofString());
        if (response.statusCode() >= 300) {
            throw new IOException(method + " " + address + ": " + response);
        }
        return response.body();
    }
}
