"""What applications do with Celery, each with a worker of its own.

Usage: celery_programs.py PROGRAM, with INTEROP_BROKER, INTEROP_PREFIX and INTEROP_RESULTS set.
Writes its outcome.
"""
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time

from celery import chain, chord, group
from celery.result import ResultSet

import celery_app as tasks

NAME = tasks.PREFIX + "worker@localhost"
FOLDER = os.path.dirname(os.path.abspath(__file__))


def worker(*options):
    command = [sys.executable, "-m", "celery", "-A", "celery_app", "worker", "-n", NAME, "-c", "2"]
    environment = {**os.environ, "C_FORCE_ROOT": "1"}
    process = subprocess.Popen(
        [*command, *options],
        cwd=FOLDER,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    for _ in range(120):
        if tasks.app.control.ping(destination=[NAME], timeout=0.25):
            return process
        if process.poll() is not None:
            break
    process.kill()
    sys.exit("the worker does not answer:\n" + process.stderr.read()[-4000:])


def stop(process):
    process.terminate()
    try:
        process.communicate(timeout=15)
    except subprocess.TimeoutExpired:
        process.kill()


def results():
    """Many at once, their results, and a chain."""
    many = group(tasks.add.s(n, n) for n in range(50))().get(timeout=60)
    chained = chain(tasks.add.s(1, 2), tasks.add.s(10))().get(timeout=60)
    return {"sum": sum(many), "chained": chained}


def retries():
    return {"retries": tasks.third_time.delay().get(timeout=60)}


def eta():
    """Held by the worker until due: more of them than its prefetch, which grows for them.

    How soon the last one runs, which is due at once, depends on when the worker's loop next looks.
    """
    start = time.time()
    due = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=2)
    waiting = [tasks.now.apply_async(countdown=2) for _ in range(10)]
    waiting.append(tasks.now.apply_async(eta=due))
    waiting.append(tasks.now.delay())
    *ran, at_once = (when - start for when in ResultSet(waiting).get(timeout=60))
    return {"early": min(ran) < 1.95, "late": max(*ran, at_once) > 20}


def chords():
    answer = chord((tasks.add.s(n, 1) for n in range(5)), tasks.total.s())().get(timeout=60)
    return {"total": answer}


def acks_late():
    """The process that runs a task is killed: the task runs again, redelivered."""
    path = os.path.join(tempfile.mkdtemp(), "killed")
    return {"redelivered": tasks.kills_its_worker_once.delay(path).get(timeout=60)}


def control(process):
    """Remote control goes over a fanout exchange, answers over a queue of ours."""
    inspect = tasks.app.control.inspect(destination=[NAME], timeout=20)
    queues = inspect.active_queues()[NAME]
    answers = {
        "ping": [list(pong.values())[0] for pong in tasks.app.control.ping([NAME], timeout=20)],
        "registered": "celery_app.add" in inspect.registered()[NAME],
        "active": inspect.active()[NAME],
        "queues": [queue["name"].replace(tasks.PREFIX, "") for queue in queues],
        "rate limit": list(
            tasks.app.control.rate_limit(
                "celery_app.add", "10/s", destination=[NAME], reply=True, timeout=2
            )[0].values()
        )[0],
        "stats broker": inspect.stats()[NAME]["broker"]["transport"],
    }
    other = tasks.PREFIX + "other"
    tasks.app.control.add_consumer(other, destination=[NAME], reply=True, timeout=20)
    answers["added queue"] = tasks.add.apply_async((2, 3), queue=other).get(timeout=60)
    tasks.app.control.cancel_consumer(other, destination=[NAME], reply=True, timeout=20)
    tasks.app.control.pool_grow(1, destination=[NAME], reply=True, timeout=20)
    tasks.app.control.shutdown(destination=[NAME])
    answers["shut down"] = process.wait(timeout=30)
    return answers


PROGRAMS = {
    "results": results,
    "retries": retries,
    "eta": eta,
    "chords": chords,
    "acks_late": acks_late,
    "control": control,
}

program = PROGRAMS[sys.argv[1]]
running = worker()
try:
    outcome = program(running) if program is control else program()
finally:
    if running.poll() is None:
        stop(running)
print(json.dumps(outcome))
