"""Real failures of a real Ray, run by the Python of Ray's environment: ``provoke_ray.py NAME``."""

import os
import signal
import sys
import time

import ray


def actor_is_killed():
    ray.init("local", num_cpus=1, include_dashboard=False)

    @ray.remote
    class Engine:
        def generate(self):
            os.kill(os.getpid(), signal.SIGKILL)

    ray.get(Engine.remote().generate.remote())


def memory_monitor():
    os.environ |= {"RAY_memory_usage_threshold": "0.01", "RAY_memory_monitor_refresh_ms": "100"}
    ray.init("local", num_cpus=1, include_dashboard=False)

    @ray.remote(max_retries=0)
    def load():
        kept = bytearray(200 * 2**20)
        time.sleep(60)
        return len(kept)

    ray.get(load.remote())


if __name__ == "__main__":
    globals()[sys.argv[1]]()
