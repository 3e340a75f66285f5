/* The radio of radio.h. radio.py compiles it: cc -shared -fPIC -pthread -o libradio.so radio.c */

#include "radio.h"

#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct radio {
    on_telegram_t on_telegram;
    may_pass_t may_pass;
    void *user;
    int telegrams, pause, closing[2];
    unsigned char buffer[32];
    pthread_t thread;
};

static void come_in(struct radio *radio, const char *text, int number)
{
    int size = snprintf((char *)radio->buffer, sizeof radio->buffer, text, number);

    if (!radio->may_pass || radio->may_pass(radio->user, radio->buffer, size))
        radio->on_telegram(radio->user, radio->buffer, size);
}

static void *listen_to_it(void *arg)
{
    struct radio *radio = arg;
    struct pollfd closing = {radio->closing[0], POLLIN, 0};
    int number = 0;

    while (poll(&closing, 1, radio->pause) == 0) /* until radio_close() */
        if (number < radio->telegrams)
            come_in(radio, "telegram %d", number++);
    come_in(radio, "over and out", 0);
    return NULL;
}

struct radio *radio_open(int telegrams, int pause, on_telegram_t on_telegram,
                         may_pass_t may_pass, void *user)
{
    struct radio *radio = calloc(1, sizeof *radio);

    if (!radio || pipe(radio->closing))
        abort();
    radio->telegrams = telegrams;
    radio->pause = pause;
    radio->on_telegram = on_telegram;
    radio->may_pass = may_pass;
    radio->user = user;
    if (pthread_create(&radio->thread, NULL, listen_to_it, radio))
        abort();
    return radio;
}

void radio_close(struct radio *radio)
{
    if (write(radio->closing[1], "", 1) != 1)
        abort();
    pthread_join(radio->thread, NULL);
    close(radio->closing[0]);
    close(radio->closing[1]);
    free(radio);
}
