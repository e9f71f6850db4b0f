/* Makes every commit take longer by as many microseconds as BENCH_DELAY says: preloaded into a daemon, it stands before
 * the calls that wait for the disk. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>

static void wait_a_while(void) {
  const char *text = getenv("BENCH_DELAY");
  const long microseconds = text == NULL ? 0 : atol(text);
  struct timespec left = {microseconds / 1000000, microseconds % 1000000 * 1000};
  while (microseconds > 0 && nanosleep(&left, &left) != 0) {
  }
}

int fdatasync(int file) {
  static int (*next)(int);
  if (next == NULL) next = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
  wait_a_while();
  return next(file);
}

int fsync(int file) {
  static int (*next)(int);
  if (next == NULL) next = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
  wait_a_while();
  return next(file);
}
