/* Load generator: many WebSocket clients in one thread.
 *
 *   load PORT echo CONNECTIONS IN_FLIGHT BYTES [OPTIONS]
 *   load PORT fanout RECIPIENTS IN_FLIGHT BYTES [OPTIONS]
 *   load PORT rooms ROOMS IN_FLIGHT BYTES [OPTIONS]
 *
 *   --sub PATH        where the clients connect
 *   --pub PATH        where the publisher connects
 *   --sub-hello TEXT  what a client says first; --pub-hello: what the publisher says
 *   --members N       how many members a room has (default 10)
 *   --pub-text TEXT   what the publisher sends, with %s for the payload
 *
 * It connects, runs a while to warm up, prints "ready", and then for every number of
 * seconds read from standard input it runs that long and prints one line of JSON:
 * messages (echoes or deliveries), seconds, latencies in microseconds, and the CPU time
 * it needed itself. An echo's latency is that of one message; a delivery's is from the
 * send of its round to its arrival at that recipient. A round is over when everything
 * has arrived. A payload begins with "@@" (a single '@' may be a frame's length),
 * and what is received is searched for that only: peers may frame, wrap and coalesce
 * as they like.
 *
 * In a fan-out a round is IN_FLIGHT messages to all. With rooms it is one message to
 * each of IN_FLIGHT rooms, and the next round is for the next rooms. The number of a
 * room is "%d" in PATH and TEXT of the clients, and stands before the
 * payload of what the publisher sends. */
#include "client.h"

/* Members of a room. */
static int members = 10;

struct client {
    int fd, half;
    size_t expected;
    double sent_at;
};

static struct client *clients;
static int count, in_flight, loop;
static unsigned char *burst;
static size_t burst_bytes;

static void watch(int index) {
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = (uint32_t)index};
    epoll_ctl(loop, EPOLL_CTL_ADD, clients[index].fd, &event);
}

/* Read once; return whether everything that was expected is now there. */
static int take(struct client *c) {
    ssize_t got = recv(c->fd, scratch, SCRATCH, MSG_DONTWAIT);
    if (got <= 0) {
        if (got < 0 && errno == EAGAIN)
            return 0;
        die("recv");
    }
    unsigned char *at = scratch, *end = scratch + got;
    while (at < end) {
        if (c->half && *at == '@') {
            c->half = 0;
            at++;
            if (!c->expected) {
                fprintf(stderr, "more messages than expected\n");
                exit(1);
            }
            c->expected--;
            continue;
        }
        c->half = 0;
        at = memchr(at, '@', (size_t)(end - at));
        if (!at)
            break;
        c->half = 1;
        at++;
    }
    return !c->expected;
}

static size_t run_echo(double seconds) {
    struct epoll_event ready[512];
    size_t messages = 0;
    double ends = now() + seconds;
    int busy = count;
    for (int i = 0; i < count; i++) {
        clients[i].expected = (size_t)in_flight;
        clients[i].sent_at = now();
        send_all(clients[i].fd, burst, burst_bytes);
    }
    while (busy) {
        int n = epoll_wait(loop, ready, 512, 10000);
        if (n <= 0) {
            fprintf(stderr, "no echo within 10 s\n");
            exit(1);
        }
        double at = now();
        for (int i = 0; i < n; i++) {
            struct client *c = &clients[ready[i].data.u32];
            if (!take(c))
                continue;
            messages += (size_t)in_flight;
            note(c->sent_at, at);
            if (at < ends) {
                c->expected = (size_t)in_flight;
                c->sent_at = at;
                send_all(c->fd, burst, burst_bytes);
            } else
                busy--;
        }
    }
    return messages;
}

/* Wait until `busy` recipients have what they expect. */
static void wait_for(int busy, double sent_at) {
    struct epoll_event ready[512];
    while (busy) {
        int n = epoll_wait(loop, ready, 512, 10000);
        if (n <= 0) {
            fprintf(stderr, "%d recipients got nothing within 10 s\n", busy);
            exit(1);
        }
        double at = now();
        for (int i = 0; i < n; i++) {
            struct client *c = &clients[ready[i].data.u32];
            if (c == &clients[count])
                recv(c->fd, scratch, SCRATCH, MSG_DONTWAIT);
            else if (c->expected && take(c)) {
                note(sent_at, at);
                busy--;
            }
        }
    }
}

static size_t run_fanout(int publisher, double seconds) {
    size_t messages = 0;
    double ends = now() + seconds, sent_at;
    do {
        for (int i = 0; i < count; i++)
            clients[i].expected = (size_t)in_flight;
        sent_at = now();
        send_all(publisher, burst, burst_bytes);
        wait_for(count, sent_at);
        messages += (size_t)count * (size_t)in_flight;
    } while (now() < ends);
    return messages;
}

static size_t run_rooms(int publisher, const char *text, double seconds) {
    static int room;
    size_t messages = 0;
    char filled[4096];
    double ends = now() + seconds, sent_at;
    do {
        burst_bytes = 0;
        for (int i = 0; i < in_flight; i++) {
            int length = snprintf(filled, sizeof filled, "%d%s", room, text);
            burst_bytes += put_frame(burst + burst_bytes, filled, (size_t)length);
            for (int j = 0; j < members; j++)
                clients[room * members + j].expected = 1;
            room = (room + 1) % (count / members);
        }
        sent_at = now();
        send_all(publisher, burst, burst_bytes);
        wait_for(in_flight * members, sent_at);
        messages += (size_t)(in_flight * members);
    } while (now() < ends);
    return messages;
}

/* Read what the hellos are answered with, until nothing comes for a second. */
static void settle(void) {
    struct epoll_event ready[512];
    int n;
    while ((n = epoll_wait(loop, ready, 512, 1000)) > 0)
        for (int i = 0; i < n; i++)
            if (recv(clients[ready[i].data.u32].fd, scratch, SCRATCH, MSG_DONTWAIT) == 0)
                die("recv");
}

int main(int argc, char **argv) {
    if (argc < 6) {
        fprintf(stderr, "usage: see the top of load.c\n");
        return 2;
    }
    int port = atoi(argv[1]), rooms = !strcmp(argv[2], "rooms");
    int echo = !strcmp(argv[2], "echo");
    members = atoi(option(argc, argv, "--members", "10"));
    count = atoi(argv[3]) * (rooms ? members : 1);
    in_flight = atoi(argv[4]);
    size_t payload = (size_t)atoi(argv[5]);
    const char *sub = option(argc, argv, "--sub", echo ? "/echo" : "/sub");
    const char *pub = option(argc, argv, "--pub", "/pub");
    const char *sub_hello = option(argc, argv, "--sub-hello", "");
    const char *pub_hello = option(argc, argv, "--pub-hello", "");
    const char *pub_text = option(argc, argv, "--pub-text", "%s");
    allow_many_files();
    char *data = malloc(payload + 1), *text = malloc(payload + strlen(pub_text) + 1);
    memset(data, 'x', payload);
    data[0] = data[1] = '@';
    data[payload] = 0;
    size_t length = (size_t)sprintf(text, pub_text, data);
    clients = calloc((size_t)count + 1, sizeof *clients);
    burst = malloc((length + 32) * (size_t)in_flight);
    for (int i = 0; i < in_flight; i++)
        burst_bytes += put_frame(burst + burst_bytes, text, length);
    loop = epoll_create1(0);
    for (int i = 0; i < count; i++) {
        clients[i].fd = open_client(port, sub, i / members);
        say(clients[i].fd, sub_hello, i / members);
        watch(i);
    }
    int publisher = -1;
    if (!echo) {
        publisher = clients[count].fd = open_client(port, pub, 0);
        say(publisher, pub_hello, 0);
        watch(count);
    }
    settle();
    double seconds = 0.3;
    for (int warm = 0;; warm = 1) {
        sample_count = 0;
        double began = now(), cpu = own_cpu();
        size_t messages = echo ? run_echo(seconds)
                        : rooms ? run_rooms(publisher, text, seconds)
                        : run_fanout(publisher, seconds);
        cpu = own_cpu() - cpu;
        if (warm)
            print_run(messages, now() - began, cpu);
        else {
            printf("ready\n");
            fflush(stdout);
        }
        if (scanf("%lf", &seconds) != 1)
            return 0;
    }
}
