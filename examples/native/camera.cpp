// A library in C++ with a thread of its own, bound with pybind11. Its thread never enters Python.
// cpp.py compiles it.

#include <atomic>
#include <thread>

#include <pybind11/pybind11.h>

#include "dss_anyio.h"

namespace py = pybind11;

struct Frame {
    int number;
    float brightness;
};

class Camera {
public:
    explicit Camera(dss_sender *sender) : sender_(dss_hold(sender)), thread_(&Camera::run, this) {}

    ~Camera() { close(); }

    void close() {
        closing_ = true;
        if (thread_.joinable()) {
            thread_.join(); // with the GIL held; the thread does not need it
            dss_release(sender_);
        }
    }

private:
    void run() {
        for (Frame frame{0, 0.5f}; !closing_; frame.number++) {
            int exposure = 0; // what the program wants, from the fifth frame on
            if (frame.number < 5) {
                dss_send(sender_, &frame, sizeof frame);
            } else if (dss_ask(sender_, &frame, sizeof frame, &exposure, sizeof exposure, nullptr, 5)
                       == DSS_OK) {
                frame.brightness = static_cast<float>(exposure);
            } else {
                return;
            }
        }
    }

    dss_sender *sender_;
    std::atomic<bool> closing_{false};
    std::thread thread_;
};

PYBIND11_MODULE(camera, module) {
    py::class_<Camera>(module, "Camera")
        .def(py::init([](const py::capsule &sender) {
            void *found = PyCapsule_GetPointer(sender.ptr(), DSS_SENDER_CAPSULE);
            if (!found)
                throw py::error_already_set(); // it is a capsule of something else
            return new Camera(static_cast<dss_sender *>(found));
        }))
        .def("close", &Camera::close);
}
