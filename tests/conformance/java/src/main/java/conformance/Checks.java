package conformance;

import io.github.centrifugal.centrifuge.ReplyError;
import io.github.centrifugal.centrifuge.ResultCallback;
import java.nio.charset.StandardCharsets;
import java.util.Objects;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.function.Consumer;

/** Waits for events and results, and compares values. */
final class Checks {
    private static final long TIMEOUT_S = 20;

    private Checks() {}

    /** Return the next event of a queue. */
    static <T> T next(BlockingQueue<T> events, String what) throws InterruptedException {
        T event = events.poll(TIMEOUT_S, TimeUnit.SECONDS);
        if (event == null) {
            throw new AssertionError("no " + what + " within " + TIMEOUT_S + " s");
        }
        return event;
    }

    /** Call a method of the SDK, and return its result. */
    static <T> T call(Consumer<ResultCallback<T>> method) throws Exception {
        CompletableFuture<T> result = new CompletableFuture<>();
        method.accept((error, value) -> {
            if (error != null) {
                result.completeExceptionally(error);
            } else {
                result.complete(value);
            }
        });
        return result.get(TIMEOUT_S, TimeUnit.SECONDS);
    }

    /** Call a method of the SDK, which must fail with this code of the protocol. */
    static <T> void refused(int code, Consumer<ResultCallback<T>> method) throws Exception {
        try {
            T result = call(method);
            throw new AssertionError("expected the error " + code + ", got " + result);
        } catch (ExecutionException failure) {
            Throwable cause = failure.getCause();
            if (!(cause instanceof ReplyError)) {
                throw failure;
            }
            equal(code, ((ReplyError) cause).getCode());
        }
    }

    static void equal(Object expected, Object actual) {
        if (!Objects.equals(expected, actual)) {
            throw new AssertionError("expected " + expected + ", got " + actual);
        }
    }

    static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    static String text(byte[] data) {
        return new String(data, StandardCharsets.UTF_8);
    }
}
