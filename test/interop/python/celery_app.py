"""A Celery application: what its worker and celery_programs.py share."""
import os
import time

from celery import Celery

PREFIX = os.environ["INTEROP_PREFIX"]
RESULTS = os.environ.get("INTEROP_RESULTS", "rpc://")

app = Celery("interop", broker=os.environ["INTEROP_BROKER"], backend=RESULTS)
app.conf.update(
    task_default_queue=PREFIX + "tasks",
    task_default_exchange=PREFIX + "tasks",
    task_default_routing_key=PREFIX + "tasks",
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    broker_connection_retry=True,
    broker_heartbeat=5,
    result_expires=60,
    event_queue_prefix=PREFIX + "events",
    control_exchange=PREFIX + "control",
)


@app.task
def add(a, b):
    return a + b


@app.task
def total(numbers):
    return sum(numbers)


@app.task(bind=True, max_retries=3)
def third_time(self):
    """Fails twice; Celery publishes it again with an eta."""
    if self.request.retries < 2:
        raise self.retry(countdown=0.2)
    return self.request.retries


@app.task
def now():
    return time.time()


@app.task(bind=True)
def kills_its_worker_once(self, path):
    """The child that runs it is killed midway the first time; acks_late brings the task back."""
    if not os.path.exists(path):
        open(path, "w").close()
        os.kill(os.getpid(), 9)
    return bool(self.request.delivery_info["redelivered"])


@app.task
def log(path, line):
    with open(path, "a") as file:
        file.write(line + "\n")
    time.sleep(0.3)
