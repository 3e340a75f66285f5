"""A binding in the style of DarkSideSync 1.0. The class uses only the API that it gets."""

import threading

import dss_anyio as dss


class Binding:
    """The binding. It works with any hub that has API 1.0."""

    def __init__(self, api):
        self.api = api
        self.errors = 0
        self.answer = None
        self.utilid, code = api.register("library", self.cancel)
        assert code == api.DSS_SUCCESS

    def cancel(self, utilid):
        print("the library stops")
        self.api.unregister(utilid)

    def decode(self, hub, data, _utilid):
        if hub is None:
            return None  # the item will not be received; free what it holds
        return f"decoded {data}"

    def return_(self, _hub, _data, _utilid, garbage, value):
        self.answer = None if garbage else value

    def work(self):
        """Runs in the library's own thread."""
        code = self.api.deliver(self.utilid, self.decode, None, "hello")
        self.errors += code < self.api.DSS_SUCCESS
        code = self.api.deliver(self.utilid, self.decode, self.return_, "6 * 7")  # waits
        self.errors += code < self.api.DSS_SUCCESS
        print("the library got", self.answer)


with dss.open_polled_hub() as hub:
    binding = Binding(hub.api("1.0"))
    thread = threading.Thread(target=binding.work)
    thread.start()
    answered = False
    while not answered and hub.wait(10):
        for item in hub.poll():
            if isinstance(item, dss.Request):
                print("asked", item.item)
                item.reply(42)
                answered = True
            else:
                print("received", item)
    thread.join()
    print(binding.errors, "codes were errors")
