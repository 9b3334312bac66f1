/* Load generator: clients that come and go.
 *
 *   connect PORT each CLIENTS 0 0 [OPTIONS]
 *   connect PORT storm CLIENTS MISSED BYTES [OPTIONS]
 *   connect PORT ask CLIENTS MISSED BYTES [OPTIONS]
 *
 *   --sub PATH        where the clients connect
 *   --sub-hello TEXT  what a client says first
 *   --until TEXT      what a client waits for after its handshake, if anything
 *   --pub PATH, --pub-hello TEXT, --pub-text TEXT   as in load.c
 *   --ask TEXT        what a client asks again and again
 *   --answer TEXT     what stands once in each answer
 *
 * each: every client connects, says its hello, waits, is cut off without a word, and
 * comes again at once. storm: first MISSED messages are published; then all clients
 * connect, and when all are there all are cut off and come again at the same moment,
 * where each waits until it has MISSED messages of "@@" (or for --until, if given).
 * ask: MISSED messages are published, all clients connect and stay, and the last one
 * asks, waits for the answer, and asks again.
 *
 * It warms up, prints "ready", and then for every number of seconds read from standard
 * input it runs that long, to the end of a storm, and prints one line of JSON as load.c
 * does: messages are connections made, and a latency is that from the moment of being
 * cut off to having everything. */
#include <fcntl.h>

#include "client.h"

struct client {
    int fd, shaken, back;
    size_t matched, expected;
    double began_at;
};

static struct client *clients;
static int port, count, loop;
static const char *sub, *hello, *until;
static size_t wanted;

static void cut(struct client *c) {
    struct linger at_once = {.l_onoff = 1, .l_linger = 0};
    setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    close(c->fd);
}

/* Begin to connect; the rest happens when the socket becomes ready. */
static void begin(struct client *c) {
    char request[1024];
    c->shaken = c->back = 0;
    c->matched = 0;
    c->expected = wanted;
    c->fd = connect_to(port, SOCK_NONBLOCK);
    size_t length = put_request(request, sizeof request, port, sub, 0);
    /* On loopback the connection is there at once, unless the backlog is full. */
    if (send(c->fd, request, length, MSG_NOSIGNAL) != (ssize_t)length)
        die("the backlog of the server is full");
    struct epoll_event event = {.events = EPOLLIN,
                                .data.u32 = (uint32_t)(c - clients)};
    epoll_ctl(loop, EPOLL_CTL_ADD, c->fd, &event);
}

/* Read once; return whether the client has all that it wants. */
static int take(struct client *c) {
    ssize_t got = recv(c->fd, scratch, SCRATCH, 0);
    if (got < 0 && errno == EAGAIN)
        return 0;
    if (got <= 0)
        die("recv");
    unsigned char *at = scratch, *end = scratch + got;
    if (!c->shaken) {
        if (got < 12 || memcmp(at, "HTTP/1.1 101", 12)) {
            fprintf(stderr, "refused: %.80s\n", (char *)at);
            exit(1);
        }
        at = memmem(at, (size_t)got, "\r\n\r\n", 4);
        if (!at) {
            fprintf(stderr, "a handshake in pieces\n");
            exit(1);
        }
        at += 4;
        c->shaken = 1;
        say(c->fd, hello, 0);
    }
    for (; at < end && c->expected; at++) {
        c->matched = *at == (unsigned char)until[c->matched] ? c->matched + 1
                   : *at == (unsigned char)until[0];
        if (!until[c->matched]) {
            c->matched = 0;
            c->expected--;
        }
    }
    return !c->expected;
}

static int wait_for_any(struct epoll_event *ready) {
    int n = epoll_wait(loop, ready, 512, 20000);
    if (n <= 0) {
        fprintf(stderr, "nothing within 20 s\n");
        exit(1);
    }
    return n;
}

static size_t run_each(double seconds) {
    struct epoll_event ready[512];
    double ends = now() + seconds;
    size_t made = 0;
    for (int i = 0; i < count; i++) {
        clients[i].began_at = now();
        begin(&clients[i]);
    }
    for (int busy = count; busy;) {
        int n = wait_for_any(ready);
        for (int i = 0; i < n; i++) {
            struct client *c = &clients[ready[i].data.u32];
            if (!take(c))
                continue;
            double at = now();
            note(c->began_at, at);
            made++;
            cut(c);
            c->began_at = at;
            if (at < ends)
                begin(c);
            else
                busy--;
        }
    }
    return made;
}

/* All connect at once; return when all have everything. */
static void storm(void) {
    struct epoll_event ready[512];
    double began_at = now();
    for (int i = 0; i < count; i++)
        begin(&clients[i]);
    for (int busy = count; busy;) {
        int n = wait_for_any(ready);
        double at = now();
        for (int i = 0; i < n; i++) {
            struct client *c = &clients[ready[i].data.u32];
            if (!c->back && take(c)) {
                c->back = 1;
                note(began_at, at);
                busy--;
            }
        }
    }
}

static size_t run_storms(double seconds) {
    double ends = now() + seconds;
    size_t made = 0;
    do {
        for (int i = 0; i < count; i++)
            cut(&clients[i]);
        storm();
        made += (size_t)count;
    } while (now() < ends);
    return made;
}

/* Send a question and wait for its answer, again and again; return how often. */
static size_t run_questions(double seconds, const char *question, const char *answer) {
    unsigned char frame[1024];
    size_t asked = 0, length = put_frame(frame, question, strlen(question));
    int fd = clients[count - 1].fd;
    double ends = now() + seconds, at = now(), sent_at;
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
    do {
        sent_at = at;
        send_all(fd, frame, length);
        for (size_t matched = 0; answer[matched];) {
            ssize_t got = recv(fd, scratch, SCRATCH, 0);
            if (got <= 0)
                die("recv");
            for (ssize_t i = 0; i < got && answer[matched]; i++)
                matched = scratch[i] == (unsigned char)answer[matched] ? matched + 1
                        : scratch[i] == (unsigned char)answer[0];
        }
        at = now();
        note(sent_at, at);
        asked++;
    } while (at < ends);
    return asked;
}

static void publish(int argc, char **argv, int messages, size_t payload) {
    const char *text = option(argc, argv, "--pub-text", "%s");
    char *data = malloc(payload + 1), *filled = malloc(payload + strlen(text) + 1);
    unsigned char *frame = malloc(payload + strlen(text) + 16);
    memset(data, 'x', payload);
    data[0] = data[1] = '@';
    data[payload] = 0;
    size_t length = (size_t)sprintf(filled, text, data);
    length = put_frame(frame, filled, length);
    int fd = open_client(port, option(argc, argv, "--pub", "/pub"), 0);
    say(fd, option(argc, argv, "--pub-hello", ""), 0);
    for (int i = 0; i < messages; i++)
        send_all(fd, frame, length);
    usleep(1000000); /* they are stored; it stays connected */
}

int main(int argc, char **argv) {
    if (argc < 6) {
        fprintf(stderr, "usage: see the top of connect.c\n");
        return 2;
    }
    int storms = !strcmp(argv[2], "storm"), asks = !strcmp(argv[2], "ask");
    port = atoi(argv[1]);
    count = atoi(argv[3]);
    sub = option(argc, argv, "--sub", storms ? "/sub" : "/echo");
    hello = option(argc, argv, "--sub-hello", "");
    until = option(argc, argv, "--until", storms ? "@@" : "");
    wanted = storms && !strcmp(until, "@@") ? (size_t)atoi(argv[4]) : *until != 0;
    allow_many_files();
    clients = calloc((size_t)count, sizeof *clients);
    loop = epoll_create1(0);
    if (atoi(argv[4]))
        publish(argc, argv, atoi(argv[4]), (size_t)atoi(argv[5]));
    if (storms || asks)
        storm();
    const char *question = option(argc, argv, "--ask", "");
    const char *answer = option(argc, argv, "--answer", "");
    double seconds = storms ? 0 : 0.3;
    for (int warm = 0;; warm = 1) {
        sample_count = 0;
        double began = now(), cpu = own_cpu();
        size_t made = storms ? run_storms(seconds)
                    : asks ? run_questions(seconds, question, answer)
                    : run_each(seconds);
        cpu = own_cpu() - cpu;
        if (warm)
            print_run(made, now() - began, cpu);
        else {
            printf("ready\n");
            fflush(stdout);
        }
        if (scanf("%lf", &seconds) != 1)
            return 0;
    }
}
