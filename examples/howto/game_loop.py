"""A hub in a game loop, here with pygame: one poll() in each frame."""

import threading

import pygame

import dss_anyio as dss

pygame.display.init()
screen = pygame.display.set_mode((320, 200))
clock = pygame.time.Clock()

with dss.open_polled_hub[str]() as hub:
    threading.Timer(0.1, hub.portal.send, ["hello from a thread"]).start()
    running = True
    while running:
        for event in pygame.event.get():
            if event.type == pygame.QUIT:
                running = False
        for text in hub.poll():  # mostly empty; poll() never blocks
            print("received", text)
            running = False
        pygame.display.flip()
        clock.tick(60)

pygame.quit()
