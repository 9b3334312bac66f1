/* Load generator: many WebSocket clients in one thread.
 *
 *   load PORT echo CONNECTIONS IN_FLIGHT BYTES PATH
 *   load PORT fanout RECIPIENTS IN_FLIGHT BYTES PATH PUBLISH_PATH
 *
 * It connects, runs a while to warm up, prints "ready", and then for every number of
 * seconds read from standard input it runs that long and prints one line of JSON:
 * messages (echoes or deliveries), seconds, latencies in microseconds, and the CPU time
 * it needed itself. An echo's latency is that of one message; a delivery's is from the
 * send of its round to its arrival at that recipient. A round is over when everything
 * has arrived. What is received is counted in bytes and not looked at. */
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
    int fd;
    size_t expected;
    double sent_at;
};

static struct client *clients;
static int count, in_flight, loop;
static size_t frame_bytes;
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

static size_t take(struct client *c) {
    ssize_t got = recv(c->fd, scratch, SCRATCH, MSG_DONTWAIT);
    if (got <= 0) {
        if (got < 0 && errno == EAGAIN)
            return 0;
        die("recv");
    }
    if ((size_t)got > c->expected) {
        fprintf(stderr, "more bytes than expected\n");
        exit(1);
    }
    c->expected -= (size_t)got;
    return (size_t)got;
}

static size_t run_echo(double seconds) {
    struct epoll_event ready[512];
    size_t messages = 0;
    double ends = now() + seconds;
    int busy = count;
    for (int i = 0; i < count; i++) {
        clients[i].expected = frame_bytes * (size_t)in_flight;
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
            if (!take(c) || c->expected)
                continue;
            messages += (size_t)in_flight;
            note(c->sent_at, at);
            if (at < ends) {
                c->expected = frame_bytes * (size_t)in_flight;
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
            clients[i].expected = frame_bytes * (size_t)in_flight;
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
                if (take(c) && !c->expected) {
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

int main(int argc, char **argv) {
    if (argc < 7) {
        fprintf(stderr, "usage: see the top of load.c\n");
        return 2;
    }
    int port = atoi(argv[1]), fanout = !strcmp(argv[2], "fanout");
    count = atoi(argv[3]);
    in_flight = atoi(argv[4]);
    size_t payload = (size_t)atoi(argv[5]);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    unsigned char header[16];
    frame_bytes = frame_header(header, 1, payload, 0) + payload;
    clients = calloc((size_t)count, sizeof *clients);
    samples = malloc(MAX_SAMPLES * sizeof *samples);
    burst = malloc((payload + 16) * (size_t)in_flight);
    for (int i = 0; i < in_flight; i++) {
        size_t head = frame_header(burst + burst_bytes, 1, payload, 1);
        memset(burst + burst_bytes + head, 0, 4); /* a mask of zeros */
        memset(burst + burst_bytes + head + 4, 'x', payload);
        burst_bytes += head + 4 + payload;
    }
    loop = epoll_create1(0);
    for (int i = 0; i < count; i++) {
        clients[i].fd = open_client(port, argv[6]);
        watch(i);
    }
    int publisher = fanout ? open_client(port, argv[7]) : -1;
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
