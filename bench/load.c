/* load: WebSocket clients that keep a bridge busy, count what comes of it, and compare every byte that an echo brings back.
 *
 *   load CASE PORT [-c connections] [-s bytes] [-d depth] [-t seconds] [-b] [-T] [-R | -S]
 *
 * CASE  echo     each connection keeps DEPTH messages of BYTES under way
 *       down     each connection sends one byte, then takes what comes
 *       up       each connection sends messages of BYTES as fast as they are taken
 *       connect  handshake, a message of one byte there and back, close; again and again; its latency is from the
 *                beginning of the connection until the byte is back
 *       idle     the connections are only held
 *
 * Each message is a write of its own, as clients do it; -b writes all that are due at once. The bridge is at 127.0.0.1; -T
 * speaks TLS to it and trusts any certificate; -R speaks plain TCP, without handshakes and frames; -S makes each connection a
 * resumable session (docs/resume-protocol.md), with its windows and acknowledgements. All connections are opened (`connect` opens none), then {"open": N} is printed, and a line on standard input starts the clock. The result is one
 * more line of JSON. One thread, epoll, level-triggered. All messages are alike, so their frames are masked once, beforehand.
 *
 *   cc -O2 -o load load.c -lssl -lcrypto
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum {
  ADDRESSES = 16,       /* 127.0.0.1 and on, in turn */
  OPENING = 64,         /* concurrent connection attempts */
  OPEN_SECONDS = 60,    /* for all of them */
  FIRST_SECONDS = 5,    /* until the first message came through, on a machine that is busy with other things */
  SLOWEST_US = 1000000, /* latencies above it count as it */
  ACK_FRAME = 15,       /* bytes of a masked frame with an ACK */
  LOOK_MS = 100,        /* an alarm between the look at `over` and epoll_wait is noticed by then */
};

struct client {
  int fd;
  SSL *ssl;
  enum { ASKING, HEARING, ADMITTING, OPEN, LEAVING } state; /* ADMITTING: a session is asked for */
  uint32_t blocked; /* what the last read or write waits for beside input: EPOLLOUT or 0 */
  uint32_t watched; /* what epoll looks for */
  char answer[1024];
  size_t answer_size;
  uint8_t header[10]; /* of the frame that is being read */
  int header_size;
  uint64_t frame_left; /* payload bytes of it that are still to come */
  uint64_t received;   /* payload bytes of data frames */
  uint64_t owed;       /* messages still to send */
  size_t begun;        /* bytes sent of the first of them */
  double *stamps;      /* a ring of `depth`: when the messages under way were sent */
  uint64_t sent, answered;
  struct session {
    uint8_t message[128]; /* the beginning of the message that is being read, whose payload is no longer than the frame */
    int message_size;
    uint64_t window, ack_bytes; /* of OPENED */
    uint64_t sent, acked;       /* positions of our stream */
    uint64_t consumed, noted;   /* positions of the other stream: what was taken, and what we have acknowledged */
    char ack[ACK_FRAME];
    int ack_left; /* bytes of it that are still to send */
  } session;
};

static enum { ECHO, DOWN, UP, CONNECT, IDLE } scenario;
static const char *const SCENARIOS[] = {"echo", "down", "up", "connect", "idle"};
static int clients = 1, size = 64, depth = 1;
static double seconds = 2;
static bool bursts, raw, sessions;
static SSL_CTX *tls;

static struct sockaddr_in bridge = {.sin_family = AF_INET};
static int queue;
static char request[256];
static size_t request_size, frame_size;
static char *payload, *frames; /* a message, and `depth` frames of it */
static char buffer[256 * 1024];
static const char CLOSE[] = {(char)0x88, (char)0x82, 0, 0, 0, 0, 0x03, (char)0xe8}; /* 1000, masked with zeros */

static volatile sig_atomic_t over;
static uint64_t opened, failed, corrupt, messages, bytes_in, bytes_out;
static uint32_t latencies[SLOWEST_US]; /* messages by microseconds from sent to answered */

static void fail(const char *what) {
  perror(what);
  exit(1);
}

static void usage(void) {
  fprintf(stderr, "usage: load echo|down|up|connect|idle PORT [-c connections] [-s bytes] [-d depth] [-t seconds] [-b] [-T] [-R | -S]\n");
  exit(2);
}

static void ring(int number) {
  (void)number;
  over = 1;
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec * 1e-9;
}

static void alarm_in(double delay) {
  time_t whole = (time_t)delay;
  if (setitimer(ITIMER_REAL, &(struct itimerval){.it_value = {whole, (delay - whole) * 1e6}}, NULL)) fail("setitimer");
}

/* Bytes in and out: a count, 0 for "not now", -1 for an end or an error. */

static ssize_t tls_count(struct client *c, int n) {
  if (n > 0) return n;
  int why = SSL_get_error(c->ssl, n);
  ERR_clear_error(); /* or it is taken for an error of the next connection */
  if (why == SSL_ERROR_WANT_WRITE) c->blocked = EPOLLOUT;
  return why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE ? 0 : -1;
}

static ssize_t put(struct client *c, const char *bytes, size_t n) {
  c->blocked = 0;
  if (c->ssl) return tls_count(c, SSL_write(c->ssl, bytes, n < INT32_MAX ? (int)n : INT32_MAX));
  ssize_t sent = send(c->fd, bytes, n, MSG_NOSIGNAL);
  if (sent >= 0 || errno != EAGAIN) return sent;
  c->blocked = EPOLLOUT;
  return 0;
}

static ssize_t get(struct client *c, char *into, size_t n) {
  if (c->ssl) return tls_count(c, SSL_read(c->ssl, into, (int)n));
  ssize_t got = recv(c->fd, into, n, 0);
  return got > 0 ? got : got < 0 && errno == EAGAIN ? 0 : -1;
}

static void watch(struct client *c) {
  uint32_t events = EPOLLIN | c->blocked;
  if (c->watched == events) return;
  struct epoll_event event = {.events = events, .data.ptr = c};
  if (epoll_ctl(queue, c->watched ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, c->fd, &event)) fail("epoll_ctl");
  c->watched = events;
}

static void dial(struct client *c) {
  double *stamps = c->stamps ? c->stamps : calloc(depth, sizeof *stamps);
  /* Many addresses, as clients have: one alone runs out of ports, and the search for a free one would be measured. */
  static uint32_t last;
  struct sockaddr_in own = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK + ++last % ADDRESSES)};
  int one = 1;
  if (stamps) stamps[0] = now();
  *c = (struct client){.stamps = stamps, .blocked = EPOLLOUT, .fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0)};
  if (c->fd < 0 || !stamps) fail("socket");
  setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
  if (bind(c->fd, (void *)&own, sizeof own)) fail("bind");
  if (connect(c->fd, (void *)&bridge, sizeof bridge) && errno != EINPROGRESS) fail("connect");
  if (tls) {
    c->ssl = SSL_new(tls);
    SSL_set_fd(c->ssl, c->fd);
    SSL_set_connect_state(c->ssl);
  }
  watch(c);
}

static void hang_up(struct client *c) {
  SSL_free(c->ssl);
  close(c->fd);
}

/* The steps of a connection. Each gives false when it is over. */

/* Sessions: OPEN, OPENED, DATA and ACK, one frame a message. */

static uint64_t number(const uint8_t *bytes, int n) {
  uint64_t found = 0;
  while (n--) found = found << 8 | *bytes++;
  return found;
}

/* Send an ACK if one is due; gives 1 once nothing of one waits, 0 for "not now", -1 for an end. */
static ssize_t acknowledge(struct client *c) {
  struct session *s = &c->session;
  if (!s->ack_left && s->consumed - s->noted >= s->ack_bytes) {
    memcpy(s->ack, (const char[]){(char)0x82, (char)0x89, 0, 0, 0, 0, 6}, 7); /* masked with zeros */
    for (int i = 0; i < 8; i++) s->ack[7 + i] = (char)(s->consumed >> (56 - 8 * i));
    s->ack_left = ACK_FRAME;
    s->noted = s->consumed;
  }
  while (s->ack_left) {
    ssize_t n = put(c, s->ack + ACK_FRAME - s->ack_left, s->ack_left);
    if (n <= 0) return n;
    s->ack_left -= n;
  }
  return 1;
}

static bool send_owed(struct client *c) {
  while (!over) {
    ssize_t clear = sessions && !c->begun ? acknowledge(c) : 1;
    if (clear <= 0) return clear == 0;
    if (!c->owed) break;
    uint64_t batch = !bursts ? 1 : c->owed < (uint64_t)depth ? c->owed : (uint64_t)depth;
    if (sessions) {
      uint64_t room = (c->session.acked + c->session.window - c->session.sent) / size;
      if (!room) break;
      if (room < batch) batch = room;
    }
    ssize_t n = put(c, frames + c->begun, batch * frame_size - c->begun);
    if (n <= 0) return n == 0;
    bytes_out += n;
    c->begun += n;
    double stamp = now();
    for (; c->begun >= frame_size; c->begun -= frame_size) {
      if (scenario != CONNECT) c->stamps[c->sent++ % depth] = stamp;
      if (scenario != UP) c->owed--;
      c->session.sent += size;
    }
  }
  return true;
}

static bool converse(struct client *c);

static void note_open(struct client *c) {
  c->state = OPEN;
  opened++;
  if (scenario == CONNECT) c->owed = 1;
}

static bool begin(struct client *c) {
  static const char OPEN_SESSION[] = {(char)0x82, (char)0x85, 0, 0, 0, 0, 1, 0, 0, 0, 0}; /* masked with zeros */
  if (sessions) {
    c->state = ADMITTING;
    return put(c, OPEN_SESSION, sizeof OPEN_SESSION) == sizeof OPEN_SESSION;
  }
  note_open(c);
  return converse(c);
}

static bool ask(struct client *c) {
  if (raw) {
    int error;
    socklen_t length = sizeof error;
    c->blocked = 0;
    return !getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &length) && !error && begin(c);
  }
  ssize_t n = put(c, request, request_size);
  if (n > 0) c->state = HEARING; /* a fresh connection takes so little at once */
  return n == 0 || n == (ssize_t)request_size;
}

static void answered(struct client *c) {
  double took = (now() - c->stamps[c->answered++ % depth]) * 1e6;
  latencies[took < SLOWEST_US ? (int)took : SLOWEST_US - 1]++;
  messages++;
  if (scenario == ECHO) c->owed++;
}

static bool take_payload(struct client *c, const char *bytes, size_t n) {
  bytes_in += n;
  if (scenario != ECHO && scenario != CONNECT) return true;
  while (n) {
    size_t at = c->received % size, part = n < size - at ? n : size - at;
    if (memcmp(bytes, payload + at, part)) {
      corrupt++;
      return false;
    }
    c->received += part;
    bytes += part;
    n -= part;
    if (at + part == (size_t)size) answered(c);
  }
  return true;
}

/* Take a part of a session's message; what is not DATA is short, and is read as a whole. */
static bool take_message(struct client *c, const char *bytes, size_t n) {
  struct session *s = &c->session;
  size_t part = n < sizeof s->message - s->message_size ? n : sizeof s->message - s->message_size;
  bool inside = s->message_size > 0;
  if (!inside || s->message[0] != 5) {
    memcpy(s->message + s->message_size, bytes, part);
    s->message_size += part;
  }
  bool ended = !c->frame_left;
  if (ended) s->message_size = 0;
  switch (s->message[0]) {
    case 2:
      if (!ended) return true;
      s->window = number(s->message + 61, 4);
      s->ack_bytes = number(s->message + 65, 4);
      note_open(c);
      return true;
    case 5:
      s->message_size = !ended;
      s->consumed += n - !inside;
      return take_payload(c, bytes + !inside, n - !inside);
    case 6:
      if (ended) s->acked = number(s->message + 1, 8);
      return true;
    default: return s->message[0] >= 128;
  }
}

static bool take(struct client *c, const char *bytes, size_t n) {
  if (raw) return take_payload(c, bytes, n);
  while (n) {
    if (c->frame_left) {
      size_t part = n < c->frame_left ? n : c->frame_left;
      c->frame_left -= part;
      if (!(c->header[0] & 8) && !(sessions ? take_message : take_payload)(c, bytes, part)) return false;
      bytes += part;
      n -= part;
      continue;
    }
    c->header[c->header_size++] = *bytes++;
    n--;
    int length = c->header[1], wide = length == 126 ? 2 : length == 127 ? 8 : 0;
    if (c->header_size < 2 || c->header_size < 2 + wide) continue;
    c->header_size = 0;
    c->frame_left = wide ? 0 : length;
    for (int i = 0; i < wide; i++) c->frame_left = c->frame_left << 8 | c->header[2 + i];
    if ((c->header[0] & 15) == 8 || c->header[1] > 127) return false; /* a Close, or a masked frame */
  }
  return true;
}

static bool converse(struct client *c) {
  ssize_t n;
  while (!over && (n = get(c, buffer, sizeof buffer)) != 0) {
    if (n < 0 || !take(c, buffer, n)) return false;
    if (!c->ssl && n < (ssize_t)sizeof buffer) break;
  }
  if (c->state == ADMITTING) return true;
  if (scenario == CONNECT && c->answered) {
    c->state = LEAVING;
    if (raw) return !shutdown(c->fd, SHUT_WR);
    return put(c, CLOSE, sizeof CLOSE) == sizeof CLOSE;
  }
  return send_owed(c);
}

static bool hear(struct client *c) {
  ssize_t n = get(c, c->answer + c->answer_size, sizeof c->answer - 1 - c->answer_size);
  if (n <= 0) return n == 0;
  c->answer_size += n;
  c->answer[c->answer_size] = 0;
  char *end = strstr(c->answer, "\r\n\r\n");
  if (!end) return c->answer_size < sizeof c->answer - 1;
  if (strncmp(c->answer, "HTTP/1.1 101 ", 13)) {
    if (!failed) fprintf(stderr, "load: answered %.*s\n", (int)strcspn(c->answer, "\r"), c->answer);
    return false;
  }
  end += 4;
  return take(c, end, c->answer + c->answer_size - end) && begin(c);
}

static bool leave(struct client *c) {
  ssize_t n;
  while ((n = get(c, buffer, sizeof buffer)) > 0);
  return n == 0;
}

static bool step(struct client *c) {
  switch (c->state) {
    case ASKING: return ask(c);
    case HEARING: return hear(c);
    case ADMITTING:
    case OPEN: return converse(c);
    default: return leave(c);
  }
}

/* Let all clients go on until the time is over, or until `wanted` are open. */
static void run(struct client *all, int *dialled, uint64_t wanted) {
  struct epoll_event events[512];
  while (!over && opened < wanted) {
    int count = epoll_wait(queue, events, 512, LOOK_MS);
    for (int i = 0; i < count; i++) {
      struct client *c = events[i].data.ptr;
      bool was_opening = c->state < OPEN;
      if (step(c)) {
        watch(c);
        if (was_opening && c->state == OPEN && *dialled < clients) dial(&all[(*dialled)++]);
        continue;
      }
      failed += c->state != LEAVING;
      hang_up(c);
      if (scenario != CONNECT && was_opening) {
        fprintf(stderr, "load: a connection ended before its handshake did\n");
        exit(1);
      }
      if (scenario == CONNECT && failed < 1000) dial(c);
    }
  }
}

static void prepare(void) {
  static const uint8_t key[] = {0x1b, 0xd4, 0x6e, 0xa7};
  request_size = snprintf(request, sizeof request,
                          "GET / HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                          "Sec-WebSocket-Key: d3NicmlkZ2UgYmVuY2htYQ==\r\nSec-WebSocket-Version: 13\r\n"
                          "Sec-WebSocket-Protocol: %s\r\n\r\n", /* some bridges want one */
                          ntohs(bridge.sin_port), sessions ? "wsbridge.resume.v1" : "binary");
  payload = malloc(size);
  frames = malloc((size_t)depth * (size + 15));
  if (!payload || !frames) fail("malloc");
  uint32_t state = 1;
  for (int i = 0; i < size; i++) payload[i] = (state = state * 1664525 + 1013904223) >> 24;
  if (raw) {
    frame_size = size;
    for (int i = 0; i < depth; i++) memcpy(frames + i * frame_size, payload, size);
    return;
  }
  char *at = frames;
  int length = size + sessions, wide = length < 126 ? 0 : length < 65536 ? 2 : 8;
  *at++ = (char)0x82;
  *at++ = (char)(0x80 | (wide == 0 ? length : wide == 2 ? 126 : 127));
  for (int shift = 8 * (wide - 1); shift >= 0; shift -= 8) *at++ = (char)((uint64_t)length >> shift);
  memcpy(at, key, 4);
  at += 4;
  if (sessions) *at++ = 5 ^ key[0];
  for (int i = 0; i < size; i++) *at++ = payload[i] ^ key[(i + sessions) & 3];
  frame_size = at - frames;
  for (int i = 1; i < depth; i++) memcpy(frames + i * frame_size, frames, frame_size);
}

static bool something_came(void) {
  switch (scenario) {
    case DOWN: return bytes_in;
    case UP: return bytes_out;
    case IDLE: return true;
    default: return messages;
  }
}

static void report(double took) {
  const double shares[] = {0.5, 0.99};
  uint32_t found[] = {0, 0};
  for (int k = 0; k < 2; k++)
    for (uint64_t seen = 0; found[k] < SLOWEST_US - 1 && (seen += latencies[found[k]]) <= shares[k] * messages;) found[k]++;
  printf("{\"seconds\": %.6f, \"opened\": %lu, \"failed\": %lu, \"corrupt\": %lu, \"messages\": %lu, \"bytes_in\": %lu, "
         "\"bytes_out\": %lu, \"p50_us\": %u, \"p99_us\": %u}\n",
         took, opened, failed, corrupt, messages, bytes_in, bytes_out, messages ? found[0] : 0, messages ? found[1] : 0);
  fflush(stdout);
}

static void read_arguments(int argc, char **argv) {
  int known = 0;
  if (argc < 3) usage();
  while (known <= IDLE && strcmp(argv[1], SCENARIOS[known])) known++;
  if (known > IDLE) usage();
  scenario = known;
  bridge.sin_port = htons(atoi(argv[2]));
  bridge.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  for (int option; (option = getopt(argc - 2, argv + 2, "c:s:d:t:bTRS")) != -1;) switch (option) {
      case 'c': clients = atoi(optarg); break;
      case 's': size = atoi(optarg); break;
      case 'd': depth = atoi(optarg); break;
      case 't': seconds = atof(optarg); break;
      case 'b': bursts = true; break;
      case 'T': tls = SSL_CTX_new(TLS_client_method()); break;
      case 'R': raw = true; break;
      case 'S': sessions = true; break;
      default: usage();
    }
  if (scenario == DOWN || scenario == CONNECT) size = 1;
  if (scenario != ECHO) depth = 1;
  if (clients < 1 || size < 1 || depth < 1 || seconds <= 0 || (raw && (tls || sessions)) || (sessions && size > 65536)) usage();
}

int main(int argc, char **argv) {
  struct rlimit files;
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  signal(SIGPIPE, SIG_IGN);
  read_arguments(argc, argv);
  sigaction(SIGALRM, &(struct sigaction){.sa_handler = ring}, NULL);
  if (tls) SSL_CTX_set_mode(tls, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  prepare();
  struct client *all = calloc(clients, sizeof *all);
  if (!all || (queue = epoll_create1(0)) < 0) fail("epoll_create1");

  int dialled = 0;
  if (scenario != CONNECT) {
    alarm_in(OPEN_SECONDS);
    while (dialled < clients && dialled < OPENING) dial(&all[dialled++]);
    run(all, &dialled, clients);
    if (over) {
      fprintf(stderr, "load: only %lu of %d connections opened within %d s\n", opened, clients, OPEN_SECONDS);
      return 1;
    }
  }
  printf("{\"open\": %lu}\n", opened);
  fflush(stdout);
  if (getchar() == EOF) return 1;

  double start = now();
  alarm_in(seconds);
  uint64_t first = scenario == ECHO ? depth : scenario == IDLE ? 0 : 1;
  while (dialled < clients) dial(&all[dialled++]);
  for (int i = 0; i < clients && scenario != CONNECT; i++) {
    all[i].owed = first;
    if (!send_owed(&all[i])) failed++;
    watch(&all[i]);
  }
  run(all, &dialled, UINT64_MAX);
  while (!something_came() && now() - start < FIRST_SECONDS) {
    over = 0;
    alarm_in(seconds);
    run(all, &dialled, UINT64_MAX);
  }
  report(now() - start);
  return 0;
}
