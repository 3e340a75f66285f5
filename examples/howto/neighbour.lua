-- A program in another language, which waits in its own select().
local socket = require("socket")
local udp = assert(socket.udp())
assert(udp:setsockname("127.0.0.1", 0))
local _, port = udp:getsockname()
print(port)  -- this is the hub's wake address
io.flush()
assert(#socket.select({udp}, nil, 10) == 1)
udp:receive()
print("woken")
