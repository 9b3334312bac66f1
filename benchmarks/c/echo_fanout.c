/* The limit: a WebSocket server as plain as C allows. One thread, epoll, one send(2)
 * for each message and recipient, no checks, no limits, no other features.
 *
 *   echo_fanout PORT
 *
 * /echo sends each message back; what comes on /pub goes to everybody on /sub. There are
 * rooms, too: a message on /pub that begins with a number goes to those on /sub/NUMBER. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "websocket.h"

enum { NEW, ECHO, PUBLISHER, SUBSCRIBER };
enum { MAX_FDS = 65536, BUFFER = 65536, ROOMS = 4096 };

struct connection {
    int kind, room;
    size_t used;
    unsigned char *buffer;
};

struct room {
    int *members, count;
};

static struct connection connections[MAX_FDS];
static struct room rooms[ROOMS];

static void enter(struct room *room, int fd) {
    room->members = realloc(room->members, sizeof(int) * (size_t)(room->count + 1));
    room->members[room->count++] = fd;
}

static void leave(struct room *room, int fd) {
    for (int i = 0; i < room->count; i++)
        if (room->members[i] == fd) {
            room->members[i] = room->members[--room->count];
            break;
        }
}

static void drop(int fd) {
    struct connection *c = &connections[fd];
    if (c->kind == SUBSCRIBER)
        leave(&rooms[c->room], fd);
    free(c->buffer);
    memset(c, 0, sizeof *c);
    close(fd);
}

static void shake_hands(int fd, struct connection *c) {
    char *text = (char *)c->buffer;
    text[c->used] = 0;
    if (!strstr(text, "\r\n\r\n"))
        return;
    char *key = strcasestr(text, "sec-websocket-key:");
    char accept[32], answer[256];
    if (!key) {
        drop(fd);
        return;
    }
    key += 18;
    while (*key == ' ')
        key++;
    accept_key(key, accept);
    int length = snprintf(answer, sizeof answer,
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n", accept);
    if (!strncmp(text, "GET /echo", 9))
        c->kind = ECHO;
    else if (!strncmp(text, "GET /pub", 8))
        c->kind = PUBLISHER;
    else {
        c->kind = SUBSCRIBER;
        c->room = strncmp(text, "GET /sub/", 9) ? 0 : atoi(text + 9) % ROOMS;
        enter(&rooms[c->room], fd);
    }
    c->used = 0;
    if (send(fd, answer, (size_t)length, MSG_NOSIGNAL) < 0)
        drop(fd);
}

static void on_message(int fd, int kind, const unsigned char *frame, size_t head,
                       size_t length) {
    if (kind == ECHO)
        (void)!send(fd, frame, head + length, MSG_NOSIGNAL);
    else if (kind == PUBLISHER) {
        size_t number = 0;
        for (size_t i = 0; i < length && frame[head + i] >= '0' && frame[head + i] <= '9';
             i++)
            number = number * 10 + (size_t)(frame[head + i] - '0');
        struct room *room = &rooms[number % ROOMS];
        for (int i = 0; i < room->count; i++)
            (void)!send(room->members[i], frame, head + length, MSG_NOSIGNAL);
    }
}

static void on_readable(int fd) {
    struct connection *c = &connections[fd];
    ssize_t got = recv(fd, c->buffer + c->used, BUFFER - 1 - c->used, 0);
    if (got <= 0) {
        if (got == 0 || errno != EAGAIN)
            drop(fd);
        return;
    }
    c->used += (size_t)got;
    if (c->kind == NEW) {
        shake_hands(fd, c);
        return;
    }
    static unsigned char out[BUFFER + 16];
    size_t at = 0;
    while (c->used - at >= 6) {
        unsigned char *in = c->buffer + at;
        size_t length = in[1] & 127, header = 2;
        if (length == 126) {
            length = (size_t)in[2] << 8 | in[3];
            header = 4;
        }
        if (c->used - at < header + 4 + length)
            break;
        if ((in[0] & 15) == 8) {
            drop(fd);
            return;
        }
        size_t head = frame_header(out, in[0] & 15, length, 0);
        const unsigned char *mask = in + header, *payload = mask + 4;
        for (size_t i = 0; i < length; i++)
            out[head + i] = payload[i] ^ mask[i & 3];
        on_message(fd, c->kind, out, head, length);
        at += header + 4 + length;
    }
    memmove(c->buffer, c->buffer + at, c->used - at);
    c->used -= at;
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: echo_fanout PORT\n");
        return 2;
    }
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_port = htons((uint16_t)atoi(argv[1])),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(listener, (struct sockaddr *)&address, sizeof address)
        || listen(listener, 4096)) {
        perror("listen");
        return 1;
    }
    int loop = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, ready[512];
    epoll_ctl(loop, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int count = epoll_wait(loop, ready, 512, -1);
        for (int i = 0; i < count; i++) {
            int fd = ready[i].data.fd;
            if (fd != listener) {
                on_readable(fd);
                continue;
            }
            while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                connections[fd].kind = NEW;
                connections[fd].used = 0;
                connections[fd].buffer = malloc(BUFFER);
                event.events = EPOLLIN;
                event.data.fd = fd;
                epoll_ctl(loop, EPOLL_CTL_ADD, fd, &event);
            }
        }
    }
}
