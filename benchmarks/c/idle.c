/* Many clients that connect as browsers do, and then do nothing.
 *
 *   idle PORT COUNT PATH DEFLATE [FIRST [UNTIL]]
 *
 * DEFLATE is 1 to offer permessage-deflate as all browsers do, 0 not to offer it, or 2
 * to request an event stream instead of a WebSocket. Each client sends
 * the text FIRST, if there is one, and waits until UNTIL has come back. It prints
 * "ready" after the first 200 clients and again after COUNT, each time waiting for a
 * line on standard input before it goes on. */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "websocket.h"

enum { WARM = 200, SCRATCH = 65536 };

static char text[SCRATCH];

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void receive_until(int fd, const char *mark) {
    size_t used = 0;
    while (used < sizeof text - 1) {
        ssize_t got = recv(fd, text + used, sizeof text - 1 - used, 0);
        if (got <= 0)
            die("recv");
        used += (size_t)got;
        text[used] = 0;
        if (memmem(text, used, mark, strlen(mark)))
            return;
    }
    die("too much");
}

static void open_client(int port, const char *path, int deflate,
                        const char *first, const char *until) {
    int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_port = htons((uint16_t)port),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address))
        die("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    int length = deflate == 2 ? snprintf(text, sizeof text,
        "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nConnection: keep-alive\r\n"
        "Pragma: no-cache\r\nCache-Control: no-cache\r\n"
        "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 "
        "(KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36\r\n"
        "Accept: text/event-stream\r\nSec-Fetch-Site: same-origin\r\n"
        "Sec-Fetch-Mode: cors\r\nAccept-Encoding: gzip, deflate, br\r\n"
        "Accept-Language: en-US,en;q=0.9\r\n"
        "Cookie: session=0123456789abcdef%08x0123456789abcdef\r\n\r\n",
        path, port, (unsigned)fd) : snprintf(text, sizeof text,
        "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nConnection: Upgrade\r\n"
        "Pragma: no-cache\r\nCache-Control: no-cache\r\n"
        "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 "
        "(KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36\r\n"
        "Upgrade: websocket\r\nOrigin: http://127.0.0.1:%d\r\n"
        "Sec-WebSocket-Version: 13\r\nAccept-Encoding: gzip, deflate, br\r\n"
        "Accept-Language: en-US,en;q=0.9\r\n"
        "Cookie: session=0123456789abcdef%08x0123456789abcdef\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n%s\r\n",
        path, port, port, (unsigned)fd,
        deflate ? "Sec-WebSocket-Extensions: permessage-deflate; "
                  "client_max_window_bits\r\n" : "");
    if (send(fd, text, (size_t)length, MSG_NOSIGNAL) != length)
        die("send");
    receive_until(fd, "\r\n\r\n");
    if (strncmp(text, deflate == 2 ? "HTTP/1.1 200" : "HTTP/1.1 101", 12)) {
        fprintf(stderr, "refused: %.80s\n", text);
        exit(1);
    }
    if (*first) {
        unsigned char frame[4096];
        size_t size = strlen(first), head = frame_header(frame, 1, size, 1);
        memset(frame + head, 0, 4);
        memcpy(frame + head + 4, first, size);
        ssize_t all = (ssize_t)(head + 4 + size);
        if (send(fd, frame, (size_t)all, MSG_NOSIGNAL) != all)
            die("send");
        receive_until(fd, until);
    }
}

static void ready(void) {
    char line[8];
    printf("ready\n");
    fflush(stdout);
    if (!fgets(line, sizeof line, stdin))
        exit(0);
}

int main(int argc, char **argv) {
    if (argc < 5) {
        fprintf(stderr, "usage: see the top of idle.c\n");
        return 2;
    }
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    int count = atoi(argv[2]);
    for (int i = 0; i < count; i++) {
        open_client(atoi(argv[1]), argv[3], atoi(argv[4]),
                    argc > 5 ? argv[5] : "", argc > 6 ? argv[6] : "");
        if (i + 1 == WARM)
            ready();
    }
    ready();
    return 0;
}
