/* What the load generators share: time, sockets, handshakes, frames, options.
 * For benchmarks only: a client that trusts its server. */
#ifndef BENCH_CLIENT_H
#define BENCH_CLIENT_H

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

static float samples[MAX_SAMPLES];
static size_t sample_count;
static unsigned char scratch[SCRATCH];

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double own_cpu(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void allow_many_files(void) {
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
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

/* Put the request of a handshake at `out`; "%d" in the path is `number`. */
static size_t put_request(char *out, size_t size, int port, const char *path,
                          int number) {
    char filled[256];
    snprintf(filled, sizeof filled, path, number);
    return (size_t)snprintf(out, size,
        "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nConnection: Upgrade\r\n"
        "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", filled, port);
}

static int connect_to(int port, int flags) {
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | flags, 0);
    struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_port = htons((uint16_t)port),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (fd < 0
        || (connect(fd, (struct sockaddr *)&address, sizeof address)
            && errno != EINPROGRESS))
        die("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

/* Connect and shake hands, waiting for each step. */
static int open_client(int port, const char *path, int number) {
    char text[1024];
    int fd = connect_to(port, 0);
    size_t used = put_request(text, sizeof text, port, path, number);
    send_all(fd, (unsigned char *)text, used);
    used = 0;
    while (used < sizeof text - 1) {
        ssize_t got = recv(fd, text + used, 1, 0);
        if (got <= 0)
            die("handshake");
        used += (size_t)got;
        text[used] = 0;
        if (used > 4 && !strcmp(text + used - 4, "\r\n\r\n"))
            break;
    }
    if (strncmp(text, "HTTP/1.1 101", 12)) {
        fprintf(stderr, "refused: %.80s\n", text);
        exit(1);
    }
    return fd;
}

/* Put a text frame with a mask of zeros at `out`; return its length. */
static size_t put_frame(unsigned char *out, const char *text, size_t length) {
    size_t head = frame_header(out, 1, length, 1);
    memset(out + head, 0, 4);
    memcpy(out + head + 4, text, length);
    return head + 4 + length;
}

/* Send a text, in which "%d" is `number`. */
static void say(int fd, const char *text, int number) {
    unsigned char frame[4096];
    char filled[4000];
    if (!*text)
        return;
    int length = snprintf(filled, sizeof filled, text, number);
    if (length > 0)
        send_all(fd, frame, put_frame(frame, filled, (size_t)length));
}

static const char *option(int argc, char **argv, const char *name, const char *other) {
    for (int i = 6; i + 1 < argc; i += 2)
        if (!strcmp(argv[i], name))
            return argv[i + 1];
    return other;
}

static void note(double since, double at) {
    if (sample_count < MAX_SAMPLES)
        samples[sample_count++] = (float)((at - since) * 1e6);
}

static int by_size(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* Print one line of JSON about a run; see the top of load.c. */
static void print_run(size_t messages, double took_s, double cpu_s) {
    qsort(samples, sample_count, sizeof *samples, by_size);
    printf("{\"messages\": %zu, \"seconds\": %.6f, \"load_cpu_s\": %.6f, "
           "\"p50_us\": %.1f, \"p99_us\": %.1f, \"max_us\": %.1f}\n",
           messages, took_s, cpu_s, (double)samples[sample_count / 2],
           (double)samples[sample_count * 99 / 100],
           (double)samples[sample_count - 1]);
    fflush(stdout);
}

#endif
