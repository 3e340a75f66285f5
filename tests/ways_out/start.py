"""Become another program of this directory, as often as one is wanted, each time in a new process.

Importing takes several times as long as anything that these programs do. So this one imports, and
forks when a message comes by the socket that is its standard input. A message names the program and
its arguments, and brings the standard files of the child; the answers are its number and, later,
what ``waitpid`` says.
"""

import json
import os
import socket
import sys

server = socket.socket(fileno=0)
while True:
    message, files, _, _ = socket.recv_fds(server, 10_000, 3)
    if not message:
        os._exit(0)  # the tests are over
    child = os.fork()
    if not child:
        break
    for file in files:
        os.close(file)
    server.sendall(b"%d\n" % child)
    server.sendall(b"%d\n" % os.waitpid(child, 0)[1])

server.detach()
for standard, file in enumerate(files):
    os.dup2(file, standard)
    os.close(file)
sys.argv = json.loads(message)
__file__ = sys.argv[0]
sys.path[0] = os.path.dirname(__file__)
with open(__file__) as program:
    code = compile(program.read(), __file__, "exec")
exec(code, globals())  # it has the place of this one
