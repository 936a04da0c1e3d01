/* The load and the upstream of pace.py: one epoll loop each, so that their own work is small beside what they time.
 *
 *   paced upstream PORT WHOLE HEAD END       answers: the file WHOLE; or HEAD, 50 events 20 ms apart, and END
 *   paced load PORT REQUEST RATE COUNT       open loop: us from when each request should have been sent to its answer
 *   paced first PORT REQUEST COUNT PAUSE_MS  one stream after the other: us to the first event of each
 *   paced streams PORT REQUEST COUNT         so many streams at once: the events that arrived
 *
 * Streams of the upstream begin at once and then have phases of their own, spread evenly, as streams of a model have that
 * began independently. One whose prompt says "just one" has one event, and its end 5 ms later.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define CONNECTIONS 4096
#define ROOM 65536
#define EVENTS 50
#define GAP_NS 20000000ull
#define PHASES 32
#define FILE_BYTES 65536

enum { LISTENER = CONNECTIONS, TIMER };
enum { IDLE, JUST_ONE, FLOWING };

typedef struct {
  int fd, used, state, events;
  uint64_t due;
  char buffer[ROOM];
} Connection;

typedef struct {
  char *bytes;
  size_t size;
} Bytes;

static Connection *connections[CONNECTIONS];
static int epoll, timer;

static void die(const char *what) {
  perror(what);
  exit(1);
}

static uint64_t now_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000000000ull + now.tv_nsec;
}

static void set_timer(uint64_t at) {
  struct itimerspec when = {.it_value = {at / 1000000000, at % 1000000000}};
  if (timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, NULL)) die("timerfd_settime");
}

static void clear_timer(void) {
  uint64_t expired;
  if (read(timer, &expired, sizeof expired) < 0) return; /* set anew meanwhile */
}

static void watch(int fd, uint32_t id) {
  struct epoll_event event = {.events = EPOLLIN, .data.u32 = id};
  if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event)) die("epoll_ctl");
}

static Bytes file(const char *path) {
  FILE *from = fopen(path, "rb");
  if (!from) die(path);
  Bytes found = {.bytes = calloc(1, FILE_BYTES + 1)};
  found.size = fread(found.bytes, 1, FILE_BYTES, from);
  fclose(from);
  return found;
}

static void send_all(int fd, const char *bytes, size_t size) {
  while (size) {
    ssize_t sent = write(fd, bytes, size);
    if (sent < 0) die("write");
    bytes += sent;
    size -= sent;
  }
}

static struct sockaddr_in loopback(int port) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

static int add(int fd) {
  int one = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  for (int id = 0; id < CONNECTIONS; id++) {
    if (connections[id]) continue;
    connections[id] = calloc(1, sizeof(Connection));
    connections[id]->fd = fd;
    watch(fd, id);
    return id;
  }
  fprintf(stderr, "too many connections\n");
  exit(1);
}

static int dial(int port) {
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  struct sockaddr_in address = loopback(port);
  if (connect(fd, (struct sockaddr *)&address, sizeof address)) die("connect");
  return add(fd);
}

/* Bytes of the message from its head's length, 0 until that is there. */
static int whole_size(Connection *each) {
  char *end = strstr(each->buffer, "\r\n\r\n"), *length = strcasestr(each->buffer, "content-length:");
  return end && length && length < end ? end + 4 - each->buffer + atoi(length + 15) : 0;
}

/* Returns false at the other side's end. */
static int receive(Connection *each) {
  ssize_t got = read(each->fd, each->buffer + each->used, ROOM - 1 - each->used);
  if (got <= 0) return 0;
  each->used += got;
  each->buffer[each->used] = 0;
  return 1;
}

/* ---- upstream ---- */

static int write_token(char *to, int number) {
  char data[512];
  int size = sprintf(data,
                     "data: {\"id\": \"c\", \"object\": \"chat.completion.chunk\", \"created\": 1, \"model\": \"bench\", \"choices\": "
                     "[{\"index\": 0, \"delta\": {\"content\": \"word%d \"}, \"finish_reason\": null}]}\n\n",
                     number);
  return sprintf(to, "%x\r\n%s\r\n", size, data);
}

static void answer(Connection *each, Bytes whole, Bytes head) {
  static int streams;
  char first[2048];
  int single = strstr(each->buffer, "just one") != NULL;
  each->used = 0;
  if (!strstr(each->buffer, "\"stream\": true") && !strstr(each->buffer, "\"stream\":true")) {
    send_all(each->fd, whole.bytes, whole.size);
    return;
  }
  memcpy(first, head.bytes, head.size);
  send_all(each->fd, first, head.size + write_token(first + head.size, 0));
  each->events = 1;
  each->state = single ? JUST_ONE : FLOWING;
  if (single)
    each->due = now_ns() + 5000000;
  else /* 13 has no factor in common with 32, so neighbours are far apart */
    each->due = (now_ns() / GAP_NS + 2) * GAP_NS + (streams++ * 13 % PHASES) * (GAP_NS / PHASES);
}

static void send_due(Bytes end) {
  uint64_t now = now_ns(), next = 0;
  char event[1024];
  for (int id = 0; id < CONNECTIONS; id++) {
    Connection *each = connections[id];
    if (!each || each->state == IDLE) continue;
    if (each->due <= now) {
      if (each->state == JUST_ONE || each->events == EVENTS) {
        each->state = IDLE;
        send_all(each->fd, end.bytes, end.size);
        continue;
      }
      send_all(each->fd, event, write_token(event, each->events++));
      each->due += GAP_NS;
    }
    if (!next || each->due < next) next = each->due;
  }
  if (next) set_timer(next);
}

static void upstream(int port, Bytes whole, Bytes head, Bytes end) {
  int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
  struct sockaddr_in address = loopback(port);
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 512)) die("listen");
  watch(listener, LISTENER);
  watch(timer, TIMER);
  for (;;) {
    struct epoll_event ready[256];
    int count = epoll_wait(epoll, ready, 256, -1);
    for (int i = 0; i < count; i++) {
      uint32_t id = ready[i].data.u32;
      if (id == LISTENER) {
        int fd = accept(listener, NULL, NULL);
        if (fd >= 0) add(fd);
      } else if (id == TIMER) {
        clear_timer();
      } else if (!receive(connections[id])) {
        close(connections[id]->fd);
        free(connections[id]);
        connections[id] = NULL;
      } else if (whole_size(connections[id]) && connections[id]->used >= whole_size(connections[id])) {
        answer(connections[id], whole, head);
      }
    }
    send_due(end);
  }
}

/* ---- load ---- */

static int tokens_in(Connection *each) {
  int count = 0;
  for (char *at = each->buffer; (at = strstr(at, "\"content\": \"word")); at++) count++;
  return count;
}

static void must_receive(Connection *each) {
  if (!receive(each)) {
    fprintf(stderr, "the connection was closed\n");
    exit(1);
  }
}

static int done(Connection *each) {
  if (!strstr(each->buffer, "\r\n\r\n")) return 0;
  if (strncmp(each->buffer, "HTTP/1.1 200", 12)) {
    fprintf(stderr, "%.300s\n", each->buffer);
    exit(1);
  }
  int size = whole_size(each);
  return size ? each->used >= size : !memcmp(each->buffer + each->used - 5, "0\r\n\r\n", 5);
}

static void load(int port, Bytes request, double rate, int count) {
  int idle[CONNECTIONS], free_count = 0, sent = 0, over = 0;
  while (free_count < 16) idle[free_count++] = dial(port);
  watch(timer, TIMER);
  uint64_t start = now_ns() + 100000000;
  set_timer(start);
  while (over < count) {
    struct epoll_event ready[256];
    int found = epoll_wait(epoll, ready, 256, -1);
    for (int i = 0; i < found; i++) {
      uint32_t id = ready[i].data.u32;
      if (id == TIMER) {
        clear_timer();
        uint64_t due = start + (uint64_t)(sent * 1e9 / rate);
        for (; sent < count && due <= now_ns(); due = start + (uint64_t)(++sent * 1e9 / rate)) {
          Connection *each = connections[free_count ? idle[--free_count] : dial(port)];
          each->due = due;
          each->used = 0;
          send_all(each->fd, request.bytes, request.size);
        }
        if (sent < count) set_timer(due);
        continue;
      }
      must_receive(connections[id]);
      uint64_t now = now_ns();
      if (!done(connections[id])) continue;
      printf("%.1f\n", (now - connections[id]->due) / 1000.0);
      idle[free_count++] = id;
      over++;
    }
  }
}

static void first(int port, Bytes request, int count, double pause_ms) {
  Connection *each = connections[dial(port)];
  struct epoll_event ready;
  struct timespec pause = {.tv_nsec = (long)(pause_ms * 1e6)};
  for (int i = 0; i < count; i++) {
    uint64_t began = now_ns(), at = 0;
    each->used = 0;
    send_all(each->fd, request.bytes, request.size);
    do {
      epoll_wait(epoll, &ready, 1, -1);
      must_receive(each);
      uint64_t now = now_ns();
      if (!at && tokens_in(each)) at = now;
    } while (!done(each));
    printf("%.1f\n", (at - began) / 1000.0);
    nanosleep(&pause, NULL);
  }
}

static void streams(int port, Bytes request, int count) {
  int left = count, tokens = 0;
  for (int i = 0; i < count; i++) {
    Connection *each = connections[dial(port)];
    send_all(each->fd, request.bytes, request.size);
  }
  while (left) {
    struct epoll_event ready[256];
    int found = epoll_wait(epoll, ready, 256, -1);
    for (int i = 0; i < found; i++) {
      Connection *each = connections[ready[i].data.u32];
      must_receive(each);
      if (!done(each)) continue;
      tokens += tokens_in(each);
      left--;
    }
  }
  printf("%d\n", tokens);
}

int main(int count, char **words) {
  if (count < 5) {
    fprintf(stderr, "see the head of paced.c\n");
    return 2;
  }
  epoll = epoll_create1(0);
  timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
  int port = atoi(words[2]);
  if (!strcmp(words[1], "upstream")) upstream(port, file(words[3]), file(words[4]), file(words[5]));
  if (!strcmp(words[1], "load")) load(port, file(words[3]), atof(words[4]), atoi(words[5]));
  if (!strcmp(words[1], "first")) first(port, file(words[3]), atoi(words[4]), atof(words[5]));
  if (!strcmp(words[1], "streams")) streams(port, file(words[3]), atoi(words[4]));
  return 0;
}
