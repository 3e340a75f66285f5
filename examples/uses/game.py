"""A game: a network thread sends positions and takes the player's keys. No frame waits for it.

By hand, ``pygame.event.post()`` raises in that thread if the queue is full, or the game is over.
"""

import threading
from typing import NamedTuple

import anyio
import pygame

import dss_anyio as dss


class Position(NamedTuple):
    player: str
    x: int
    y: int


def network(portal: dss.Portal[Position], keys: dss.Feed[str]) -> None:
    """Stands for the client of a game server: it gets far more positions than there are frames."""
    with portal:
        for step in range(200):
            for player, y in (("ada", 50), ("alan", 100)):
                if not portal.offer(Position(player, step, y)):
                    return  # the game is over
            key = keys.take_nowait(default=None)
            if key is not None:
                print("the server got:", key)
            pause.wait(0.002)


def draw(players: dict[str, Position]) -> None:
    screen.fill("black")
    for position in players.values():
        pygame.draw.circle(screen, "white", (position.x, position.y), 5)
    pygame.display.flip()


pygame.display.init()
screen = pygame.display.set_mode((320, 200))
clock = pygame.time.Clock()
pause = threading.Event()
players: dict[str, Position] = {}
frames = 0

with dss.open_polled_hub[Position](64, overflow="drop_oldest") as hub:  # keep the latest
    keys = hub.open_feed(16)
    thread = threading.Thread(target=network, args=[hub.portal, keys])
    thread.start()
    pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=pygame.K_SPACE))  # a player; remove it
    running = True
    while running:
        for event in pygame.event.get():
            if event.type == pygame.QUIT:
                running = False
            elif event.type == pygame.KEYDOWN:
                keys.send_nowait(pygame.key.name(event.key))
        try:
            players.update((position.player, position) for position in hub.poll())
        except anyio.EndOfStream:  # the network thread has closed its portal
            running = False
        draw(players)
        frames += 1
        clock.tick(60)
    for position in players.values():
        print(f"{position.player} is at {position.x}, {position.y}")
    print("fewer frames than positions:", frames < hub.statistics().received)
thread.join()
pygame.quit()
