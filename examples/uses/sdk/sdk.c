/* Stands for the SDK of a device: it has a thread for each channel.

   Replace it with your own. sdk.py compiles it like this:
   cc -shared -fPIC -pthread -o libsdk.so sdk.c */

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

enum { COOL, OFF };

typedef void (*on_reading_t)(void *user, int channel, double degrees);
typedef int (*on_alarm_t)(void *user, int channel, double degrees); /* COOL or OFF */

struct sdk {
    int channels;
    on_reading_t on_reading;
    on_alarm_t on_alarm;
    void *user;
    atomic_int next, closing;
    pthread_t threads[16];
};

static void *measure(void *arg)
{
    struct sdk *sdk = arg;
    struct timespec pause = {0, 1000000};
    int channel = atomic_fetch_add(&sdk->next, 1);

    for (double degrees = 30; !atomic_load(&sdk->closing); degrees += 10) {
        sdk->on_reading(sdk->user, channel, degrees);
        if (degrees >= 50) {
            if (sdk->on_alarm(sdk->user, channel, degrees) == OFF)
                break;
            degrees = 20;
        }
        nanosleep(&pause, NULL);
    }
    return NULL;
}

struct sdk *sdk_open(int channels, on_reading_t on_reading, on_alarm_t on_alarm, void *user)
{
    struct sdk *sdk = calloc(1, sizeof *sdk);
    if (!sdk || channels > 16)
        abort();
    sdk->on_reading = on_reading;
    sdk->on_alarm = on_alarm;
    sdk->user = user;
    for (; sdk->channels < channels; sdk->channels++)
        if (pthread_create(&sdk->threads[sdk->channels], NULL, measure, sdk))
            abort();
    return sdk;
}

/* Joins the threads: do not call it in a thread that one of them waits for. */
void sdk_close(struct sdk *sdk)
{
    atomic_store(&sdk->closing, 1);
    for (int i = 0; i < sdk->channels; i++)
        pthread_join(sdk->threads[i], NULL);
    free(sdk);
}
