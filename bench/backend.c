/* backend: the three TCP services that a measured bridge reaches.
 *
 *   backend
 *
 * Prints {"echo": PORT, "source": PORT, "sink": PORT} and serves on 127.0.0.1 until it is ended. `echo` sends back what it gets,
 * `source` sends without end once it has got one byte, `sink` swallows. One thread, epoll, level-triggered.
 *
 *   cc -O2 -o backend backend.c
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum service { ECHO, SOURCE, SINK, SERVICES };

struct socket {
  int fd;
  bool listens;
  enum service service;
  uint32_t watched; /* what epoll looks for */
  char *held;       /* echo: bytes that the bridge did not take yet, else NULL */
  size_t held_size, held_sent;
};

static char buffer[256 * 1024];
static int queue;

static void fail(const char *what) {
  perror(what);
  exit(1);
}

static void watch(struct socket *s, uint32_t events) {
  if (s->watched == events) return;
  struct epoll_event event = {.events = events, .data.ptr = s};
  if (epoll_ctl(queue, s->watched ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, s->fd, &event)) fail("epoll_ctl");
  s->watched = events;
}

static struct socket *adopt(int fd, bool listens, enum service service) {
  struct socket *s = calloc(1, sizeof *s);
  if (!s) fail("calloc");
  s->fd = fd;
  s->listens = listens;
  s->service = service;
  watch(s, EPOLLIN);
  return s;
}

static int open_service(enum service service) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t size = sizeof address;
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  if (fd < 0 || bind(fd, (void *)&address, size) || listen(fd, 4096) || getsockname(fd, (void *)&address, &size))
    fail("listen");
  adopt(fd, true, service);
  return ntohs(address.sin_port);
}

static void accept_all(struct socket *listener) {
  int fd, one = 1;
  while ((fd = accept4(listener->fd, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    adopt(fd, false, listener->service);
  }
  if (errno != EAGAIN && errno != ECONNABORTED) fail("accept");
}

/* Each of these gives false when the connection is over. */

static bool later(ssize_t n) { return n < 0 && errno == EAGAIN; }

static bool send_held(struct socket *s) {
  ssize_t n = send(s->fd, s->held + s->held_sent, s->held_size - s->held_sent, MSG_NOSIGNAL);
  if (n < 0) return later(n);
  s->held_sent += n;
  if (s->held_sent == s->held_size) {
    free(s->held);
    s->held = NULL;
    watch(s, EPOLLIN);
  }
  return true;
}

static bool echo(struct socket *s) {
  if (s->held) return send_held(s);
  ssize_t n = recv(s->fd, buffer, sizeof buffer, 0);
  if (n <= 0) return later(n);
  ssize_t sent = send(s->fd, buffer, n, MSG_NOSIGNAL);
  if (sent < 0 && !later(sent)) return false;
  if (sent < 0) sent = 0;
  if (sent < n) {
    s->held_size = n - sent;
    s->held_sent = 0;
    s->held = malloc(s->held_size);
    if (!s->held) fail("malloc");
    memcpy(s->held, buffer + sent, s->held_size);
    watch(s, EPOLLOUT);
  }
  return true;
}

static bool swallow(struct socket *s) {
  ssize_t n = recv(s->fd, buffer, sizeof buffer, 0);
  if (n <= 0) return later(n);
  if (s->service == SOURCE) watch(s, EPOLLIN | EPOLLOUT);
  return true;
}

static bool pour(struct socket *s) {
  static char bytes[sizeof buffer];
  ssize_t n = send(s->fd, bytes, sizeof bytes, MSG_NOSIGNAL);
  return n >= 0 || later(n);
}

static bool serve(struct socket *s, uint32_t events) {
  if (s->service == ECHO) return echo(s);
  if (events & ~EPOLLOUT && !swallow(s)) return false;
  return !(events & EPOLLOUT) || pour(s);
}

int main(void) {
  struct rlimit files;
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  if ((queue = epoll_create1(0)) < 0) fail("epoll_create1");
  int ports[SERVICES];
  for (enum service service = ECHO; service < SERVICES; service++) ports[service] = open_service(service);
  printf("{\"echo\": %d, \"source\": %d, \"sink\": %d}\n", ports[ECHO], ports[SOURCE], ports[SINK]);
  fflush(stdout);
  for (;;) {
    struct epoll_event events[256];
    int count = epoll_wait(queue, events, 256, -1);
    for (int i = 0; i < count; i++) {
      struct socket *s = events[i].data.ptr;
      if (s->listens) {
        accept_all(s);
      } else if (!serve(s, events[i].events)) {
        close(s->fd);
        free(s->held);
        free(s);
      }
    }
  }
}
