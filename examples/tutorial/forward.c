/* The radio's on_telegram: it waits for room, and saves what the program has not accepted. */

#include "dss_anyio.h"

#include <stdio.h>

struct forward { /* the radio's "user" */
    dss_sender *sender;
    const char *file;
    int called;
};

void forward(void *user, const unsigned char *data, size_t size)
{
    struct forward *self = user;
    int status = dss_send_wait(self->sender, data, size, 5.0); /* 5 seconds at most */

    self->called++;
    if (status < 0) { /* not accepted, so it is still ours */
        FILE *file = fopen(self->file, "a");

        if (file) {
            fprintf(file, "%.*s (%s)\n", (int)size, (const char *)data, dss_status(status));
            fclose(file);
        }
    }
}
