/* Python's face of closures.c: functions of the module dss_anyio._native._dss.

   Their arguments come from records.py and for_c.py, which have looked at what users gave. No "#" in
   the formats: what it means differs between the versions whose headers, and whose Python, we get. */

#include <Python.h>

#ifdef DSS_FFI

#include "closures.h"

#include <string.h>

static PyObject *make_closure(PyObject *module, PyObject *args) {
    (void)module;
    unsigned long long address, number;
    Py_ssize_t item_size;
    const char *result;
    PyObject *parts, *value;
    int asks;
    dss_signature signature;
    memset(&signature, 0, sizeof(signature));
    if (!PyArg_ParseTuple(
            args, "KnKssSSpd:make_closure", &address, &item_size, &number, &signature.arguments,
            &result, &parts, &value, &asks, &signature.timeout
        )) {
        return NULL;
    }
    signature.sender = (dss_sender *)(uintptr_t)address;
    signature.item_size = (size_t)item_size;
    signature.number = number;
    signature.result = *result;
    signature.parts = (const dss_part *)(const void *)PyBytes_AsString(parts);
    signature.part_count = (int)((size_t)PyBytes_Size(parts) / sizeof(dss_part));
    signature.asks = asks != 0;
    if (item_size > DSS_LARGEST_ITEM || PyBytes_Size(value) != sizeof(signature.value)) {
        PyErr_SetString(PyExc_ValueError, "make_closure: wrong sizes");
        return NULL;
    }
    memcpy(&signature.value, PyBytes_AsString(value), sizeof(signature.value));
    void *made = dss_closure_new(&signature);
    if (!made) {
        PyErr_SetString(PyExc_OSError, "libffi cannot make such a function here");
        return NULL;
    }
    return PyLong_FromVoidPtr(made);
}

static PyObject *borrow(PyObject *module, PyObject *args) {
    (void)module;
    unsigned long long lent;
    if (!PyArg_ParseTuple(args, "K:borrow", &lent)) {
        return NULL;
    }
    /* Twice, because memory cannot be allocated under the lock: that may run anything. */
    size_t size = dss_closure_borrow(lent, NULL, 0);
    PyObject *record = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    if (record && size && dss_closure_borrow(lent, PyBytes_AsString(record), size) != size) {
        Py_DECREF(record); /* it has gone meanwhile */
        record = PyBytes_FromStringAndSize(NULL, 0);
    }
    return record;
}

static PyMethodDef functions[] = {
    {"make_closure", make_closure, METH_VARARGS,
     "make_closure(sender, item_size, number, arguments, result, parts, value, asks, timeout): the "
     "address of a new function of C."},
    {"borrow", borrow, METH_VARARGS,
     "borrow(lent): the record that an asker has lent; nothing if it has gone."},
    {NULL, NULL, 0, NULL},
};

int dss_add_closures(PyObject *module) {
    return PyModule_AddFunctions(module, functions)
        || PyModule_AddIntConstant(module, "MOST_ARGUMENTS", DSS_MOST_ARGUMENTS);
}

#else

typedef int dss_no_closures_module; /* ISO C has no empty file */

#endif
