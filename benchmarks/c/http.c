/* Load generator: HTTP requests over connections that stay open.
 *
 *   http PORT post CONNECTIONS UNITS 0 [OPTIONS]
 *
 *   --path PATH    where the requests go
 *   --key TEXT     value of the header X-API-Key
 *   --body TEXT    body of each request; UNITS is how many publications it has
 *
 * Each connection sends a request, reads the whole response, and sends the next one.
 * It warms up, prints "ready", and then for every number of seconds read from standard
 * input it runs that long and prints one line of JSON as load.c does: messages are
 * units, and a latency is that of one request. */
#include <strings.h>

#include "client.h"

struct client {
    int fd, chunked;
    char head[2048];
    size_t received, whole;
    double sent_at;
};

static struct client *clients;
static int count, loop;
static char *request;
static size_t request_bytes;

static void ask(struct client *c) {
    c->received = c->whole = 0;
    c->chunked = 0;
    c->sent_at = now();
    send_all(c->fd, (unsigned char *)request, request_bytes);
}

/* Learn from a complete head where the response ends. */
static void read_head(struct client *c, char *end) {
    *end = 0;
    if (strncmp(c->head, "HTTP/1.1 200", 12)) {
        fprintf(stderr, "refused: %.200s\n", c->head);
        exit(1);
    }
    char *length = strcasestr(c->head, "\r\ncontent-length:");
    if (length)
        c->whole = (size_t)(end + 4 - c->head) + (size_t)atol(length + 17);
    else
        c->chunked = 1;
}

/* Read once; return whether the whole response is there. */
static int take(struct client *c) {
    ssize_t got = recv(c->fd, scratch, SCRATCH, 0);
    if (got <= 0)
        die("recv");
    if (!c->whole && !c->chunked) {
        size_t room = sizeof c->head - 1 - c->received;
        size_t part = (size_t)got < room ? (size_t)got : room;
        memcpy(c->head + c->received, scratch, part);
        c->head[c->received + part] = 0;
        char *end = strstr(c->head, "\r\n\r\n");
        if (end)
            read_head(c, end);
    }
    c->received += (size_t)got;
    /* The last chunk of these responses never arrives in two parts. */
    return c->chunked ? got >= 5 && !memcmp(scratch + got - 5, "0\r\n\r\n", 5)
                      : c->whole && c->received == c->whole;
}

static size_t run(double seconds) {
    struct epoll_event ready[512];
    size_t asked = 0;
    double ends = now() + seconds;
    for (int i = 0; i < count; i++)
        ask(&clients[i]);
    for (int busy = count; busy;) {
        int n = epoll_wait(loop, ready, 512, 10000);
        if (n <= 0) {
            fprintf(stderr, "no response within 10 s\n");
            exit(1);
        }
        for (int i = 0; i < n; i++) {
            struct client *c = &clients[ready[i].data.u32];
            if (!take(c))
                continue;
            double at = now();
            note(c->sent_at, at);
            asked++;
            if (at < ends)
                ask(c);
            else
                busy--;
        }
    }
    return asked;
}

int main(int argc, char **argv) {
    if (argc < 6) {
        fprintf(stderr, "usage: see the top of http.c\n");
        return 2;
    }
    int port = atoi(argv[1]);
    count = atoi(argv[3]);
    size_t units = (size_t)atoi(argv[4]);
    const char *body = option(argc, argv, "--body", "{}");
    size_t size = strlen(body) + 1024;
    request = malloc(size);
    request_bytes = (size_t)snprintf(request, size,
        "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nX-API-Key: %s\r\n"
        "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
        option(argc, argv, "--path", "/"), port,
        option(argc, argv, "--key", "none"), strlen(body), body);
    clients = calloc((size_t)count, sizeof *clients);
    loop = epoll_create1(0);
    for (int i = 0; i < count; i++) {
        clients[i].fd = connect_to(port, 0);
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = (uint32_t)i};
        epoll_ctl(loop, EPOLL_CTL_ADD, clients[i].fd, &event);
    }
    double seconds = 0.3;
    for (int warm = 0;; warm = 1) {
        sample_count = 0;
        double began = now(), cpu = own_cpu();
        size_t asked = run(seconds);
        cpu = own_cpu() - cpu;
        if (warm)
            print_run(asked * units, now() - began, cpu);
        else {
            printf("ready\n");
            fflush(stdout);
        }
        if (scanf("%lf", &seconds) != 1)
            return 0;
    }
}
