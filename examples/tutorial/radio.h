/* A radio: stands for a library in C with a thread of its own. */

#include <stddef.h>

/* A telegram has come in. The buffer is the radio's: it is written again after the call. */
typedef void (*on_telegram_t)(void *user, const unsigned char *data, size_t size);

/* Shall this telegram be passed to on_telegram? 1: yes; 0: no. May be NULL. */
typedef int (*may_pass_t)(void *user, const unsigned char *data, size_t size);

/* So many telegrams come in, with a pause of so many milliseconds before each. */
struct radio *radio_open(int telegrams, int pause, on_telegram_t on_telegram,
                         may_pass_t may_pass, void *user);

/* The last telegram comes in, "over and out"; then the thread ends. This waits for it. */
void radio_close(struct radio *radio);
