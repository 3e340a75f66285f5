"""The counts of a hub for Prometheus: a collector reads them when Prometheus asks."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

import dss_anyio as dss


class HubCollector(Collector):
    def __init__(self, *hubs: dss.Hub[int] | dss.PolledHub[int]) -> None:
        self.hubs = hubs

    def collect(self) -> Iterator[Metric]:
        items = CounterMetricFamily("dss_items", "items that have ended", labels=["hub", "end"])
        queued = GaugeMetricFamily("dss_queued", "items that wait", labels=["hub"])
        blocked = GaugeMetricFamily("dss_blocked", "threads that wait", labels=["hub"])
        for hub in self.hubs:
            counts = hub.statistics()
            for end in ("received", "dropped", "undelivered"):
                items.add_metric([hub.name, end], getattr(counts, end))
            queued.add_metric([hub.name], counts.queued)
            blocked.add_metric([hub.name], len(hub.blocked()))
        return iter((items, queued, blocked))


with dss.open_polled_hub[int](2, overflow="drop_oldest", name="meters") as hub:
    registry = CollectorRegistry()
    registry.register(HubCollector(hub))  # a program has prometheus_client.REGISTRY for this
    hub.portal.send_many([1, 2, 3])
    hub.poll(1)
    for line in generate_latest(registry).decode().splitlines():
        if not line.startswith("#"):
            print(line)
