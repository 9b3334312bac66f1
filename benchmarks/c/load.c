/* Load generator: many WebSocket clients in one thread.
 *
 *   load PORT echo CONNECTIONS IN_FLIGHT BYTES [OPTIONS]
 *   load PORT fanout RECIPIENTS IN_FLIGHT BYTES [OPTIONS]
 *
 *   --sub PATH        where the clients connect
 *   --pub PATH        where the publisher connects
 *   --sub-hello TEXT  what a client says first; --pub-hello: what the publisher says
 *   --pub-text TEXT   what the publisher sends, with %s for the payload
 *
 * It connects, runs a while to warm up, prints "ready", and then for every number of
 * seconds read from standard input it runs that long and prints one line of JSON:
 * messages (echoes or deliveries), seconds, latencies in microseconds, and the CPU time
 * it needed itself. An echo's latency is that of one message; a delivery's is from the
 * send of its round to its arrival at that recipient. A round is over when everything
 * has arrived. A payload begins with "@@" (a single '@' may be a frame's length),
 * and what is received is searched for that only: peers may frame, wrap and coalesce
 * as they like. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "websocket.h"

enum { MAX_SAMPLES = 4000000, SCRATCH = 1 << 20 };

struct client {
    int fd, half;
    size_t expected;
    double sent_at;
};

static struct client *clients;
static int count, in_flight, loop;
static unsigned char *burst;
static size_t burst_bytes;
static float *samples;
static size_t sample_count;
static unsigned char scratch[SCRATCH];

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void send_all(int fd, const unsigned char *data, size_t length) {
    while (length) {
        ssize_t sent = send(fd, data, length, MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno == EAGAIN)
                continue;
            die("send");
        }
        data += sent;
        length -= (size_t)sent;
    }
}

static int open_client(int port, const char *path) {
    int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_port = htons((uint16_t)port),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    char request[512];
    int length = snprintf(request, sizeof request,
        "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nConnection: Upgrade\r\n"
        "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", path, port);
    if (connect(fd, (struct sockaddr *)&address, sizeof address))
        die("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    send_all(fd, (unsigned char *)request, (size_t)length);
    size_t used = 0;
    while (used < sizeof request - 1) {
        ssize_t got = recv(fd, request + used, 1, 0);
        if (got <= 0)
            die("handshake");
        used += (size_t)got;
        request[used] = 0;
        if (used > 4 && !strcmp(request + used - 4, "\r\n\r\n"))
            break;
    }
    if (strncmp(request, "HTTP/1.1 101", 12)) {
        fprintf(stderr, "refused: %.80s\n", request);
        exit(1);
    }
    return fd;
}

static void watch(int index) {
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = (uint32_t)index};
    epoll_ctl(loop, EPOLL_CTL_ADD, clients[index].fd, &event);
}

static void note(double since, double at) {
    if (sample_count < MAX_SAMPLES)
        samples[sample_count++] = (float)((at - since) * 1e6);
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

static size_t run_fanout(int publisher, double seconds) {
    struct epoll_event ready[512];
    size_t messages = 0;
    double ends = now() + seconds, sent_at;
    do {
        for (int i = 0; i < count; i++)
            clients[i].expected = (size_t)in_flight;
        int busy = count;
        sent_at = now();
        send_all(publisher, burst, burst_bytes);
        while (busy) {
            int n = epoll_wait(loop, ready, 512, 10000);
            if (n <= 0) {
                fprintf(stderr, "%d recipients got nothing within 10 s\n", busy);
                exit(1);
            }
            double at = now();
            for (int i = 0; i < n; i++) {
                struct client *c = &clients[ready[i].data.u32];
                if (c == &clients[count]) {
                    recv(c->fd, scratch, SCRATCH, MSG_DONTWAIT);
                    continue;
                }
                if (take(c)) {
                    note(sent_at, at);
                    busy--;
                }
            }
        }
        messages += (size_t)count * (size_t)in_flight;
    } while (now() < ends);
    return messages;
}

static int by_size(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static double own_cpu(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Put a text frame with a mask of zeros at `out`; return its length. */
static size_t put_frame(unsigned char *out, const char *text, size_t length) {
    size_t head = frame_header(out, 1, length, 1);
    memset(out + head, 0, 4);
    memcpy(out + head + 4, text, length);
    return head + 4 + length;
}

static void say(int fd, const char *text) {
    unsigned char frame[4096];
    size_t length = strlen(text);
    if (length && length < sizeof frame - 16)
        send_all(fd, frame, put_frame(frame, text, length));
}

static const char *option(int argc, char **argv, const char *name, const char *other) {
    for (int i = 6; i + 1 < argc; i += 2)
        if (!strcmp(argv[i], name))
            return argv[i + 1];
    return other;
}

int main(int argc, char **argv) {
    if (argc < 6) {
        fprintf(stderr, "usage: see the top of load.c\n");
        return 2;
    }
    int port = atoi(argv[1]), fanout = !strcmp(argv[2], "fanout");
    count = atoi(argv[3]);
    in_flight = atoi(argv[4]);
    size_t payload = (size_t)atoi(argv[5]);
    const char *sub = option(argc, argv, "--sub", fanout ? "/sub" : "/echo");
    const char *pub = option(argc, argv, "--pub", "/pub");
    const char *sub_hello = option(argc, argv, "--sub-hello", "");
    const char *pub_hello = option(argc, argv, "--pub-hello", "");
    const char *pub_text = option(argc, argv, "--pub-text", "%s");
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    char *data = malloc(payload + 1), *text = malloc(payload + strlen(pub_text) + 1);
    memset(data, 'x', payload);
    data[0] = data[1] = '@';
    data[payload] = 0;
    size_t length = (size_t)sprintf(text, pub_text, data);
    clients = calloc((size_t)count + 1, sizeof *clients);
    samples = malloc(MAX_SAMPLES * sizeof *samples);
    burst = malloc((length + 16) * (size_t)in_flight);
    for (int i = 0; i < in_flight; i++)
        burst_bytes += put_frame(burst + burst_bytes, text, length);
    loop = epoll_create1(0);
    for (int i = 0; i < count; i++) {
        clients[i].fd = open_client(port, sub);
        say(clients[i].fd, sub_hello);
        watch(i);
    }
    int publisher = -1;
    if (fanout) {
        publisher = clients[count].fd = open_client(port, pub);
        say(publisher, pub_hello);
        watch(count);
    }
    usleep(1000000); /* the hellos are answered; their answers are passed over */
    if (fanout)
        run_fanout(publisher, 0.3);
    else
        run_echo(0.3);
    printf("ready\n");
    fflush(stdout);
    double seconds;
    while (scanf("%lf", &seconds) == 1) {
        sample_count = 0;
        double began = now(), cpu = own_cpu();
        size_t messages = fanout ? run_fanout(publisher, seconds) : run_echo(seconds);
        cpu = own_cpu() - cpu;
        double took = now() - began;
        qsort(samples, sample_count, sizeof *samples, by_size);
        printf("{\"messages\": %zu, \"seconds\": %.6f, \"load_cpu_s\": %.6f, "
               "\"p50_us\": %.1f, \"p99_us\": %.1f, \"max_us\": %.1f}\n",
               messages, took, cpu, (double)samples[sample_count / 2],
               (double)samples[sample_count * 99 / 100],
               (double)samples[sample_count - 1]);
        fflush(stdout);
    }
    return 0;
}
