// A library in Rust with a thread of its own. rust.py compiles it:
// rustc --edition 2021 --crate-type cdylib -o libsensor.so sensor.rs

use std::ffi::{c_int, c_void};
use std::thread::{self, JoinHandle};

type DssSend = unsafe extern "C" fn(*mut c_void, *const c_void, usize) -> c_int;

/// A dss_sender and the function that it is for. Any thread may use them, for ever.
#[derive(Clone, Copy)]
struct Sender(*mut c_void, DssSend);

unsafe impl Send for Sender {}

impl Sender {
    fn send<T: Copy>(self, item: T) -> Result<(), c_int> {
        let data = &item as *const T as *const c_void;
        match unsafe { (self.1)(self.0, data, size_of::<T>()) } {
            status if status >= 0 => Ok(()),
            error => Err(error), // such as DSS_CLOSED: the program has ended its hub
        }
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Reading {
    number: u32,
    degrees: f32,
}

pub struct Sensor(JoinHandle<Result<(), c_int>>);

#[no_mangle]
pub extern "C" fn sensor_start(sender: *mut c_void, send: DssSend, readings: u32) -> *mut Sensor {
    let sender = Sender(sender, send);
    let thread = thread::spawn(move || {
        (0..readings).try_for_each(|number| {
            let degrees = 20.0 + number as f32 / 2.0;
            sender.send(Reading { number, degrees })
        })
    });
    Box::into_raw(Box::new(Sensor(thread)))
}

/// Returns 0, or the status with which sending has failed.
#[no_mangle]
pub unsafe extern "C" fn sensor_stop(sensor: *mut Sensor) -> c_int {
    let Sensor(thread) = *Box::from_raw(sensor);
    thread.join().unwrap().err().unwrap_or(0)
}
