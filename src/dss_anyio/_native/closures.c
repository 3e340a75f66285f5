/* Functions of C, made at run time by libffi, that pack their arguments into a record and send it.
   No Python object in here; closures_module.c is Python's face.

   Rules:

   - A function is valid for ever. C has its address, and nobody can know when it calls for the last
     time: so neither its code nor what belongs to it is ever freed (a kilobyte). After the end
     its sender is closed, and it goes on returning what was chosen.
   - What is made by dss_closure_new is never changed afterwards. So any number of threads may be
     in one function at a time, and a signal handler that interrupts it may call it, too.
   - It waits for no lock, except for an answer. It keeps errno. It allocates only for what is
     longer than an item.

   A record: 8 bytes that say whose it is; of one that asks, 8 bytes that are 0; then the fixed part
   of each argument, without gaps: its bytes, or 8 bytes that say how many bytes of a text or buffer
   follow at the end, -1 for NULL; then those texts and buffers.

   A question that is longer than an item is lent: the asker waits anyway, so its record stays in
   its own memory, under a number in the list *lenders*, and what is sent is that number. Whoever
   receives it copies the record while it holds the list's lock; an asker that has waited enough
   takes itself out of the list, under that lock, before its memory goes. So either the copy is
   complete, or there is none, and then nobody waits for an answer any more. */

#ifdef DSS_FFI

#include "closures.h"
#include "ring.h"

#include <errno.h>
#include <ffi.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <wchar.h>

typedef struct { /* before the arguments; each record has it */
    uint64_t number;
    uint64_t lent; /* 0: the record is here */
} head;

typedef struct {
    ffi_cif cif;
    dss_sender *sender;
    size_t item_size, head_size, fixed_size;
    uint64_t number, value;
    double timeout;
    char result;
    bool asks;
    int part_count;
    ffi_type *types[DSS_MOST_ARGUMENTS];
    char arguments[DSS_MOST_ARGUMENTS];
    dss_part parts[];
} closure;

/* -- Asks that are longer than an item ----------------------------------------------------------- */

typedef struct lender { /* on the stack of the asker */
    struct lender *next;
    uint64_t number;
    const void *record;
    size_t size;
} lender;

static pthread_mutex_t lenders_lock = PTHREAD_MUTEX_INITIALIZER;
static lender *lenders;
static uint64_t lent_so_far;

static void forget_lenders(void) {
    /* In a forked child: they wait in the parent, and one may have held the lock. */
    static const pthread_mutex_t fresh = PTHREAD_MUTEX_INITIALIZER;
    lenders_lock = fresh;
    lenders = NULL;
}

static uint64_t lend(lender *mine, const void *record, size_t size) {
    mine->record = record;
    mine->size = size;
    pthread_mutex_lock(&lenders_lock);
    uint64_t number = mine->number = ++lent_so_far;
    mine->next = lenders;
    lenders = mine;
    pthread_mutex_unlock(&lenders_lock);
    return number;
}

static void take_back(lender *mine) {
    pthread_mutex_lock(&lenders_lock);
    for (lender **each = &lenders; *each; each = &(*each)->next) {
        if (*each == mine) {
            *each = mine->next;
            break;
        }
    }
    pthread_mutex_unlock(&lenders_lock);
}

size_t dss_closure_borrow(uint64_t lent, void *to, size_t room) {
    size_t size = 0;
    pthread_mutex_lock(&lenders_lock);
    for (lender *each = lenders; each; each = each->next) {
        if (each->number == lent) {
            size = each->size;
            if (room) {
                memcpy(to, each->record, size < room ? size : room);
            }
            break;
        }
    }
    pthread_mutex_unlock(&lenders_lock);
    return size;
}

/* -- The record ---------------------------------------------------------------------------------- */

static size_t size_of(char letter) {
    switch (letter) {
    case 'b': case 'B': return 1;
    case 'h': case 'H': return 2;
    case 'i': case 'I': case 'f': return 4;
    case 'P': return sizeof(void *);
    case 'g': return sizeof(long double);
    default: return 8;
    }
}

/* How many elements *argument* says; 0 if it is negative. */
static uint64_t length_in(char letter, const void *argument) {
    int64_t length;
    switch (letter) {
    case 'b': length = *(const int8_t *)argument; break;
    case 'B': length = *(const uint8_t *)argument; break;
    case 'h': length = *(const int16_t *)argument; break;
    case 'H': length = *(const uint16_t *)argument; break;
    case 'i': length = *(const int32_t *)argument; break;
    case 'I': length = *(const uint32_t *)argument; break;
    case 'Q': return *(const uint64_t *)argument;
    default: length = *(const int64_t *)argument; break;
    }
    return length < 0 ? 0 : (uint64_t)length;
}

/* How many bytes a text or a buffer has; -1: it is NULL; below that: more than there can be. */
static int64_t bytes_of(const closure *self, const dss_part *part, void **args) {
    const void *data = *(void *const *)args[part->argument];
    if (!data) {
        return -1;
    }
    if (part->kind == DSS_PART_TEXT) {
        return (int64_t)strlen(data);
    }
    if (part->kind == DSS_PART_WIDE_TEXT) {
        return (int64_t)(wcslen(data) * sizeof(wchar_t));
    }
    uint64_t length = length_in(self->arguments[part->length], args[part->length]);
    return length > PTRDIFF_MAX / (uint64_t)part->element ? -2 : (int64_t)length * part->element;
}

/* The size of the record, and in *lengths* those of its texts and buffers. 0: too large. */
HOT static size_t measure(const closure *self, void **args, int64_t *lengths) {
    size_t size = self->fixed_size;
    for (int i = 0; i < self->part_count; i++) {
        const dss_part *part = &self->parts[i];
        if (part->kind >= DSS_PART_TEXT) {
            int64_t length = lengths[i] = bytes_of(self, part, args);
            if (length < -1 || length > (int64_t)(PTRDIFF_MAX - size)) {
                return 0;
            }
            size += length < 0 ? 0 : (size_t)length;
        }
    }
    return size;
}

/* Of sizes that the compiler knows, because a call of memcpy costs as much as the rest of a part. */
HOT static size_t put_number(char *to, char letter, const void *argument) {
    size_t size = size_of(letter);
    switch (size) {
    case 8: memcpy(to, argument, 8); break;
    case 4: memcpy(to, argument, 4); break;
    default: memcpy(to, argument, size); break;
    }
    return size;
}

HOT static void pack(const closure *self, void **args, const int64_t *lengths, char *record) {
    head begin = {self->number, 0};
    memcpy(record, &begin, self->head_size);
    char *fixed = record + self->head_size, *rest = record + self->fixed_size;
    for (int i = 0; i < self->part_count; i++) {
        const dss_part *part = &self->parts[i];
        const void *argument = args[part->argument];
        if (part->kind == DSS_PART_NUMBER) {
            fixed += put_number(fixed, self->arguments[part->argument], argument);
        } else if (part->kind == DSS_PART_LONG_DOUBLE) {
            double value = (double)*(const long double *)argument;
            memcpy(fixed, &value, sizeof(value));
            fixed += sizeof(value);
        } else {
            memcpy(fixed, &lengths[i], sizeof(lengths[i]));
            fixed += sizeof(lengths[i]);
            if (lengths[i] > 0) {
                memcpy(rest, *(void *const *)argument, (size_t)lengths[i]);
                rest += lengths[i];
            }
        }
    }
}

/* -- The call ------------------------------------------------------------------------------------ */

/* What C gets. libffi wants integers as wide as a register. */
static void give_back(char result, void *returned, const void *value) {
    switch (result) {
    case 0: break;
    case 'b': { int8_t v; memcpy(&v, value, 1); *(ffi_sarg *)returned = v; break; }
    case 'h': { int16_t v; memcpy(&v, value, 2); *(ffi_sarg *)returned = v; break; }
    case 'i': { int32_t v; memcpy(&v, value, 4); *(ffi_sarg *)returned = v; break; }
    case 'B': { uint8_t v; memcpy(&v, value, 1); *(ffi_arg *)returned = v; break; }
    case 'H': { uint16_t v; memcpy(&v, value, 2); *(ffi_arg *)returned = v; break; }
    case 'I': { uint32_t v; memcpy(&v, value, 4); *(ffi_arg *)returned = v; break; }
    case 'g': { double v; memcpy(&v, value, 8); *(long double *)returned = v; break; }
    default: memcpy(returned, value, size_of(result)); break;
    }
}

static void free_record(void *record, void *arg) {
    (void)arg;
    free(record);
}

static int ask(const closure *self, const void *record, size_t size, uint64_t *answer) {
    size_t answered = 0;
    uint64_t got = 0;
    int status;
    if (size <= self->item_size) {
        status = dss_ask(self->sender, record, size, &got, sizeof(got), &answered, self->timeout);
    } else {
        lender mine;
        head sent = {self->number, lend(&mine, record, size)};
        status = dss_ask(
            self->sender, &sent, sizeof(sent), &got, sizeof(got), &answered, self->timeout
        );
        take_back(&mine);
    }
    if (status == DSS_OK) { /* if the program has answered what is not of the type, it is not */
        *answer = got;
    }
    return status;
}

/* A call that cannot be sent, for want of memory or because a length is nonsense. */
static void drop(const closure *self) { dss_ring_count_dropped(self->sender); }

HOT static void called(ffi_cif *cif, void *returned, void **args, void *data) {
    (void)cif;
    const closure *self = data;
    int before = errno;
    uint64_t value = self->value;
    int64_t lengths[DSS_MOST_ARGUMENTS];
    char item[DSS_LARGEST_ITEM], *record = item;
    size_t size = measure(self, args, lengths);

    if (size > self->item_size) {
        record = malloc(size);
    }
    if (!size || !record) {
        drop(self);
    } else {
        pack(self, args, lengths, record);
        int status;
        if (self->asks) {
            ask(self, record, size, &value);
        } else if (record == item) {
            status = dss_send(self->sender, record, size);
            if (status == DSS_FULL) {
                drop(self);
            }
        } else {
            status = dss_give(self->sender, record, size, free_record, NULL);
            if (status < 0) {
                free(record);
                if (status == DSS_FULL) {
                    drop(self);
                }
            }
        }
        if (self->asks && record != item) {
            free(record);
        }
    }
    give_back(self->result, returned, &value);
    errno = before;
}

/* -- Making one ---------------------------------------------------------------------------------- */

static ffi_type *type_of(char letter) {
    switch (letter) {
    case 'b': return &ffi_type_sint8;
    case 'B': return &ffi_type_uint8;
    case 'h': return &ffi_type_sint16;
    case 'H': return &ffi_type_uint16;
    case 'i': return &ffi_type_sint32;
    case 'I': return &ffi_type_uint32;
    case 'q': return &ffi_type_sint64;
    case 'Q': return &ffi_type_uint64;
    case 'f': return &ffi_type_float;
    case 'd': return &ffi_type_double;
    case 'g': return &ffi_type_longdouble;
    case 'P': return &ffi_type_pointer;
    default: return &ffi_type_void;
    }
}

static void install_fork_handler(void) { pthread_atfork(NULL, NULL, forget_lenders); }

void *dss_closure_new(const dss_signature *signature) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, install_fork_handler);
    size_t count = strlen(signature->arguments);
    size_t parts_size = (size_t)signature->part_count * sizeof(dss_part);
    closure *self = calloc(1, sizeof(*self) + parts_size);
    void *code = NULL;
    ffi_closure *made = ffi_closure_alloc(sizeof(*made), &code);
    if (self && made && count <= DSS_MOST_ARGUMENTS && signature->part_count <= DSS_MOST_ARGUMENTS) {
        self->sender = signature->sender;
        self->item_size = signature->item_size;
        self->number = signature->number;
        self->value = signature->value;
        self->timeout = signature->timeout;
        self->result = signature->result;
        self->asks = signature->asks;
        self->part_count = signature->part_count;
        self->head_size = signature->asks ? sizeof(head) : sizeof(uint64_t);
        self->fixed_size = self->head_size;
        memcpy(self->arguments, signature->arguments, count);
        memcpy(self->parts, signature->parts, parts_size);
        for (int i = 0; i < self->part_count; i++) {
            const dss_part *part = &self->parts[i];
            self->fixed_size +=
                part->kind == DSS_PART_NUMBER ? size_of(self->arguments[part->argument]) : 8;
        }
        for (size_t i = 0; i < count; i++) {
            self->types[i] = type_of(self->arguments[i]);
        }
        if (ffi_prep_cif(
                &self->cif, FFI_DEFAULT_ABI, (unsigned)count, type_of(self->result), self->types
            ) == FFI_OK
            && ffi_prep_closure_loc(made, &self->cif, called, self, code) == FFI_OK) {
            return code; /* and self and made are kept: see the rules */
        }
    }
    if (made) {
        ffi_closure_free(made);
    }
    free(self);
    return NULL;
}

#else

typedef int dss_no_closures; /* ISO C has no empty file */

#endif
