"""What a task or actor can find out about itself."""

from __future__ import annotations

import json
from typing import Any

from shoal._api import get_gpu_ids
from shoal.engine import current


class RuntimeContext:
    """Facts about the code that asks: its task, actor, worker, session. Made by `get_runtime_context()`."""

    def get(self) -> dict[str, Any]:
        return dict(current().context())

    def get_job_id(self) -> str:
        return str(current().context()["job_id"])

    def get_node_id(self) -> str:
        return str(current().context()["node_id"])

    def get_worker_id(self) -> str:
        return str(current().context()["worker_id"])

    def get_session_name(self) -> str:
        return str(current().context()["session_name"])

    def get_task_id(self) -> str | None:
        """The id of the present task, None in the driver."""
        value = current().context().get("task_id")
        return None if value is None else str(value)

    def get_task_name(self) -> str | None:
        value = current().context().get("task_name")
        return None if value is None else str(value)

    def get_task_function_name(self) -> str | None:
        return self.get_task_name()

    def get_attempt_number(self) -> int:
        """How often the present task has been run before, because of `max_retries` or `retry_exceptions`; 0 in the driver.

        In a method of an actor it is that call's number (`max_task_retries`).

        >>> import shoal
        >>> @shoal.remote(max_retries=2, retry_exceptions=True)
        ... def third_time():
        ...     attempt = shoal.get_runtime_context().get_attempt_number()
        ...     if attempt < 2:
        ...         raise OSError("not yet")
        ...     return attempt
        >>> shoal.get(third_time.remote())
        2
        """
        return int(current().context().get("attempt", 0))

    def get_actor_id(self) -> str | None:
        """The id of the actor this runs in, None outside of one."""
        value = current().context().get("actor_id")
        return None if value is None else str(value)

    def get_actor_name(self) -> str | None:
        value = current().context().get("actor_name")
        return None if value is None else str(value)

    @property
    def current_actor(self) -> Any:
        """A handle of the actor this runs in. Raises RuntimeError outside of one."""
        handle = current().context().get("actor_handle")
        if handle is None:
            raise RuntimeError("current_actor: this does not run in an actor")
        return handle

    @property
    def was_current_actor_reconstructed(self) -> bool:
        """Whether this actor was restarted after a death of its process."""
        return bool(current().context().get("restarts"))

    def get_assigned_resources(self) -> dict[str, float]:
        """What the present task or actor takes while it runs, by resource; {} in the driver."""
        return dict(current().context().get("resources", {}))

    def get_accelerator_ids(self) -> dict[str, list[str]]:
        """The accelerators granted to the present task or actor, by kind: {"GPU": ["0"]}."""
        return {"GPU": [str(gpu) for gpu in get_gpu_ids()]}

    def get_resource_ids(self) -> dict[str, list[str]]:
        """Ray's older name for `get_accelerator_ids`."""
        return self.get_accelerator_ids()

    def is_canceled(self) -> bool:
        """Whether the present task was cancelled: for one that catches KeyboardInterrupt, or runs in a thread."""
        return bool(current().context().get("cancelled"))

    def get_placement_group_id(self) -> None:
        """The id of the placement group that this runs in: there are none."""

    def get_node_labels(self) -> dict[str, str]:
        """The labels of the node: none."""
        return {}

    @property
    def runtime_env(self) -> dict[str, Any]:
        """The runtime environment of the present task or actor, else of the session: what `env_vars` it was given."""
        return dict(current().context().get("runtime_env") or {})

    def get_runtime_env_string(self) -> str:
        """`runtime_env` as JSON."""
        return json.dumps(self.runtime_env)

    @property
    def current_placement_group_id(self) -> None:
        return None

    @property
    def should_capture_child_tasks_in_placement_group(self) -> bool:
        return False

    @property
    def gcs_address(self) -> str:
        """The address of Ray's control server: there is none, "" stands for this machine."""
        return ""

    @property
    def namespace(self) -> str:
        return str(current().context()["namespace"])

    @property
    def job_id(self) -> str:
        return self.get_job_id()

    @property
    def node_id(self) -> str:
        return self.get_node_id()

    @property
    def task_id(self) -> str | None:
        return self.get_task_id()

    @property
    def actor_id(self) -> str | None:
        return self.get_actor_id()


def get_runtime_context() -> RuntimeContext:
    """Facts about the present task or actor."""
    return RuntimeContext()
