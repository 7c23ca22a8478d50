"""For tests: a pool of one Worker class, and whole deployments in simulated time.

`running` and `leased` are for who writes a Worker class and wants to try it out.

    python -m amnode.testing --seeds 1000 --jobs 2

runs whole deployments under simulated time, network and processes, each from one seed. The
drivers, the protocol and the decisions are the real ones; only the event loop, the connections
and the processes are simulated, so that a fault can come at any moment and a run can be
repeated by its seed.
"""

from __future__ import annotations

from amnode.testing.deployment import Deployment
from amnode.testing.faults import Fault, Kind, Scenario, scenario
from amnode.testing.host import Launch, SimHost, SimLauncher, SimProcess
from amnode.testing.loop import Place, SimLoop
from amnode.testing.network import SimNetwork, SimTransport, Weather
from amnode.testing.running import Running, leased, running
from amnode.testing.simulation import Verdict, simulate

__all__ = [
    "Deployment",
    "Fault",
    "Kind",
    "Launch",
    "Place",
    "Running",
    "Scenario",
    "SimHost",
    "SimLauncher",
    "SimLoop",
    "SimNetwork",
    "SimProcess",
    "SimTransport",
    "Verdict",
    "Weather",
    "leased",
    "running",
    "scenario",
    "simulate",
]
