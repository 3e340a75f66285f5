/* Functions of C that pack their arguments into one record and send it: see closures.c. */

#ifndef DSS_CLOSURES_H
#define DSS_CLOSURES_H

#include "dss_anyio.h"

#include <stdbool.h>
#include <stdint.h>

enum { DSS_MOST_ARGUMENTS = 64, DSS_LARGEST_ITEM = 1024 };

/* How a part of the record is made of an argument. */
enum dss_part_kinds {
    DSS_PART_NUMBER,      /* its bytes as they are */
    DSS_PART_LONG_DOUBLE, /* as a double */
    DSS_PART_TEXT,        /* what it points to, up to a char that is 0 */
    DSS_PART_WIDE_TEXT,   /* the same of wchar_t */
    DSS_PART_BUFFER       /* what it points to, as long as another argument says */
};

typedef struct {
    int32_t kind;
    int32_t argument;
    int32_t length;  /* DSS_PART_BUFFER: the argument that has its length, */
    int32_t element; /* and the size of an element */
} dss_part;

typedef struct { /* what a function is to be */
    dss_sender *sender;
    size_t item_size; /* of the sender, at most DSS_LARGEST_ITEM */
    uint64_t number;  /* begins each record: whose it is */
    const char *arguments; /* a letter for each, as struct has them: bBhHiIqQfd, g for long double,
                              P for pointers */
    char result; /* the same; 0: none */
    const dss_part *parts;
    int part_count;
    uint64_t value; /* the bytes of what it returns, or returns without an answer */
    bool asks;
    double timeout; /* for an answer; below 0: none */
} dss_signature;

/* Make such a function. It stays for ever. NULL if the system does not allow it. */
void *dss_closure_new(const dss_signature *);

/* Copy the record that the asker *lent* has lent, if it waits still: at most *room* bytes to *to*.
   Returns its whole size; 0 if it has gone. */
size_t dss_closure_borrow(uint64_t lent, void *to, size_t room);

#ifdef Py_PYTHON_H
int dss_add_closures(PyObject *module); /* closures_module.c */
#endif

#endif
