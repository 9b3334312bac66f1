package conformance;

/** A scenario of one feature; it throws where the SDK or the server is wrong. */
interface Scenario {
    void run() throws Exception;
}
