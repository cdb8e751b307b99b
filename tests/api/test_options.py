"""The options of tasks, actors and methods: what is accepted, what is refused and with which words, and the
resources they stand for."""

from __future__ import annotations

import doctest
import fractions
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from shoal import _options
from shoal._options import (
    RESOURCE_UNIT,
    memory_bytes,
    resource_demand,
    resource_units,
    scheduling_strategy_of,
    validate_actor_options,
    validate_init_resources,
    validate_method_options,
    validate_task_options,
)
from shoal.util import scheduling_strategies
from shoal.util.scheduling_strategies import (
    DoesNotExist,
    Exists,
    In,
    NodeAffinitySchedulingStrategy,
    NodeLabelSchedulingStrategy,
    NotIn,
    PlacementGroupSchedulingStrategy,
)


class Group:
    """Has the shape of a placement group."""

    @property
    def bundle_specs(self) -> list[dict[str, float]]:
        raise AssertionError("looking at the bundles may wait for the group")


GROUP = Group()
IN_GROUP = PlacementGroupSchedulingStrategy(GROUP)
ON_NODE = NodeAffinitySchedulingStrategy("ab12", soft=True)
BY_LABEL = NodeLabelSchedulingStrategy({"zone": In("a")})


def task(**options: Any) -> dict[str, Any]:
    return validate_task_options(options, in_options=False)


def actor(**options: Any) -> dict[str, Any]:
    return validate_actor_options(options, in_options=False)


def method(**options: Any) -> dict[str, Any]:
    return validate_method_options(options, in_options=False)


def call(**options: Any) -> dict[str, Any]:
    return validate_method_options(options, in_options=True)


Validate = Callable[..., dict[str, Any]]
task_and_actor = pytest.mark.parametrize("validate", [task, actor])

# (given, as normalised)
COMMON_GOOD: list[tuple[dict[str, Any], Any]] = [
    ({"num_cpus": 2}, 2),
    ({"num_cpus": 0}, 0),
    ({"num_cpus": 0.25}, 0.25),
    ({"num_cpus": None}, None),
    ({"num_gpus": 1 / 3}, 1 / 3),
    ({"num_gpus": True}, 1),
    ({"num_gpus": np.int64(2)}, 2),
    ({"memory": 1e9}, 1_000_000_000),
    ({"memory": 7}, 7),
    ({"memory": None}, None),
    ({"resources": {"disk": 0.5, "seat": 1}}, {"disk": 0.5, "seat": 1}),
    ({"resources": {}}, {}),
    ({"resources": None}, None),
    ({"name": "a name"}, "a name"),
    ({"name": None}, None),
    ({"runtime_env": {"env_vars": {"A": "1"}}}, {"env_vars": {"A": "1"}}),
    ({"runtime_env": None}, None),
    ({"accelerator_type": "H100"}, "H100"),
    ({"enable_task_events": False}, False),
    ({"label_selector": {"zone": "a"}}, {"zone": "a"}),
    ({"scheduling_strategy": None}, None),
    ({"scheduling_strategy": "DEFAULT"}, "DEFAULT"),
    ({"scheduling_strategy": "SPREAD"}, "SPREAD"),
    ({"scheduling_strategy": IN_GROUP}, IN_GROUP),
    ({"scheduling_strategy": ON_NODE}, ON_NODE),
    ({"scheduling_strategy": BY_LABEL}, BY_LABEL),
    ({"placement_group": "default"}, "default"),
    ({"placement_group": None}, None),
    ({"placement_group_bundle_index": 2}, 2),
    ({"placement_group_capture_child_tasks": None}, None),
    ({"_metadata": {"k": 1}}, {"k": 1}),
    ({"_labels": {"k": "v"}}, {"k": "v"}),
    ({"fallback_strategy": [{"label_selector": {}}]}, [{"label_selector": {}}]),
]

TASK_GOOD: list[tuple[dict[str, Any], Any]] = [
    ({"num_returns": 0}, 0),
    ({"num_returns": np.int32(3)}, 3),
    ({"num_returns": None}, None),
    ({"num_returns": "streaming"}, "streaming"),
    ({"max_retries": -1}, -1),
    ({"max_retries": None}, None),
    ({"max_calls": 0}, 0),
    ({"retry_exceptions": True}, True),
    ({"retry_exceptions": []}, ()),
    ({"retry_exceptions": [ValueError, OSError]}, (ValueError, OSError)),
    ({"retry_exceptions": (KeyboardInterrupt,)}, (KeyboardInterrupt,)),
    ({"name": ""}, ""),
    ({"_generator_backpressure_num_objects": 1}, 1),
    ({"_generator_backpressure_num_objects": -1}, -1),
]

ACTOR_GOOD: list[tuple[dict[str, Any], Any]] = [
    ({"max_concurrency": 8}, 8),
    ({"max_concurrency": None}, None),
    ({"max_restarts": -1}, -1),
    ({"max_task_retries": 3}, 3),
    ({"max_pending_calls": -1}, -1),
    ({"max_pending_calls": 0}, -1),
    ({"max_pending_calls": 10}, 10),
    ({"namespace": "n"}, "n"),
    ({"lifetime": "detached"}, "detached"),
    ({"lifetime": "non_detached"}, "non_detached"),
    ({"lifetime": None}, None),
    ({"get_if_exists": False}, False),
    ({"allow_out_of_order_execution": True}, True),
    ({"concurrency_groups": {"io": 2}}, {"io": 2}),
    ({"concurrency_groups": [{"name": "io", "max_concurrency": 2, "methods": []}]}, {"io": 2}),
    ({"concurrency_groups": None}, None),
    ({"enable_tensor_transport": False}, False),
]

METHOD_GOOD: list[tuple[dict[str, Any], Any]] = [
    ({"num_returns": 2}, 2),
    ({"num_returns": "streaming"}, "streaming"),
    ({"concurrency_group": "io"}, "io"),
    ({"max_task_retries": -1}, -1),
    ({"retry_exceptions": [OSError]}, (OSError,)),
    ({"retry_exceptions": None}, None),
    ({"enable_task_events": None}, None),
    ({"tensor_transport": "nccl"}, "nccl"),
    ({"_generator_backpressure_num_objects": 4}, 4),
    ({"_num_objects_per_yield": 2}, 2),
]


def assert_same(result: dict[str, Any], given: dict[str, Any], wanted: Any) -> None:
    (name,) = given
    assert result == {name: wanted}
    assert type(result[name]) is type(wanted)


class TestAccepted:
    @task_and_actor
    @pytest.mark.parametrize(("given", "wanted"), COMMON_GOOD, ids=repr)
    def test_common(self, validate: Validate, given: dict[str, Any], wanted: Any) -> None:
        assert_same(validate(**given), given, wanted)

    @pytest.mark.parametrize(("given", "wanted"), TASK_GOOD, ids=repr)
    def test_task(self, given: dict[str, Any], wanted: Any) -> None:
        assert_same(task(**given), given, wanted)

    @pytest.mark.parametrize(("given", "wanted"), ACTOR_GOOD, ids=repr)
    def test_actor(self, given: dict[str, Any], wanted: Any) -> None:
        assert_same(actor(**given), given, wanted)

    @pytest.mark.parametrize("validate", [method, call])
    @pytest.mark.parametrize(("given", "wanted"), METHOD_GOOD, ids=repr)
    def test_method(self, validate: Validate, given: dict[str, Any], wanted: Any) -> None:
        assert_same(validate(**given), given, wanted)

    def test_only_what_was_given_comes_back(self) -> None:
        assert task() == actor() == method() == call() == {}

    def test_mappings_are_copied(self) -> None:
        resources: dict[str, Any] = {"disk": 1}
        env: dict[str, Any] = {"env_vars": {}}
        result = task(resources=resources, runtime_env=env)
        resources["seat"] = 1
        env["pip"] = {}
        assert result == {"resources": {"disk": 1}, "runtime_env": {"env_vars": {}}}

    def test_name_of_a_method_call(self) -> None:
        assert call(name="one call") == {"name": "one call"}
        with pytest.raises(ValueError, match="'name' is not an option of a method"):
            method(name="one call")


COMMON_BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"num_cpus": "2"}, TypeError, r"num_cpus must be a number, not '2' \(str\)"),
    ({"num_cpus": -1}, ValueError, "num_cpus must not be negative: it is -1"),
    ({"num_cpus": 0.00005}, ValueError, "num_cpus=5e-05 is finer than 0.0001"),
    ({"num_gpus": float("nan")}, ValueError, "num_gpus must be a finite number"),
    ({"num_gpus": float("inf")}, ValueError, "num_gpus must be a finite number"),
    ({"num_cpus": 10**15}, ValueError, "more than can be counted"),
    ({"memory": -5}, ValueError, "memory is a number of bytes and must not be negative"),
    ({"memory": "1GB"}, TypeError, "memory must be a number"),
    ({"memory": 2**63}, ValueError, "more than can be counted"),
    ({"resources": ["disk"]}, TypeError, "resources must be a dict of resource names to amounts"),
    ({"resources": {"CPU": 1}}, ValueError, "resources must not hold 'CPU': use the keyword num_cpus"),
    ({"resources": {"GPU": 1}}, ValueError, "use the keyword num_gpus"),
    ({"resources": {"memory": 1}}, ValueError, "use the keyword memory"),
    ({"resources": {"disk": -1}}, ValueError, r"resources\['disk'\] must not be negative"),
    ({"resources": {"disk": 0.00001}}, ValueError, r"resources\['disk'\]=1e-05 is finer than 0.0001"),
    ({"resources": {"disk": "1"}}, TypeError, r"resources\['disk'\] must be a number"),
    ({"resources": {1: 1}}, TypeError, "names of resources, not 1"),
    ({"resources": {"": 1}}, ValueError, "empty name"),
    ({"name": 3}, TypeError, r"name must be a str or None, not 3 \(int\)"),
    ({"runtime_env": {"env_vars": ["A=1"]}}, TypeError, r"runtime_env\['env_vars'\] must be a dict or None"),
    ({"runtime_env": "env.yaml"}, TypeError, "runtime_env must be a dict or None"),
    ({"accelerator_type": 1}, TypeError, "accelerator_type must be a str or None"),
    ({"accelerator_type": ""}, ValueError, "accelerator_type must not be empty"),
    ({"enable_task_events": 1}, TypeError, "enable_task_events must be True or False"),
    ({"enable_task_events": None}, TypeError, "enable_task_events must be True or False"),
    ({"label_selector": ["zone"]}, TypeError, "label_selector must be a dict or None"),
    ({"label_selector": {"zone": 1}}, TypeError, "must map strings to strings, not 'zone' to 1"),
    ({"scheduling_strategy": "spread"}, ValueError, "must be 'DEFAULT', 'SPREAD', a strategy object or None"),
    ({"scheduling_strategy": 1}, TypeError, "scheduling_strategy must be 'DEFAULT', 'SPREAD' or one of"),
    ({"scheduling_strategy": GROUP}, TypeError, "scheduling_strategy must be"),
    ({"placement_group": "mine"}, ValueError, "must be a placement group, 'default' or None, not 'mine'"),
    ({"placement_group": 1}, TypeError, "must be a placement group, 'default' or None, not 1"),
    ({"placement_group_bundle_index": -2}, ValueError, "at least -1"),
    ({"placement_group_bundle_index": "0"}, TypeError, "placement_group_bundle_index must be an int"),
    ({"placement_group_bundle_index": None}, TypeError, "placement_group_bundle_index must be an int"),
    ({"placement_group_capture_child_tasks": 1}, TypeError, "must be True or False"),
    ({"fallback_strategy": {}}, TypeError, "fallback_strategy must be a list or None"),
]

TASK_BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"num_returns": -1}, ValueError, "num_returns must not be negative: it is -1"),
    ({"num_returns": 1.0}, TypeError, "num_returns must be an int of at least 0, 'streaming' or None"),
    ({"num_returns": True}, TypeError, "num_returns must be an int"),
    ({"num_returns": "many"}, ValueError, "'streaming' or None, not 'many'"),
    ({"max_retries": -2}, ValueError, r"max_retries must be an int of at least -1 \(-1 for ever\), not -2"),
    ({"max_retries": 1.5}, TypeError, "max_retries must be an int"),
    ({"max_retries": True}, TypeError, "max_retries must be an int"),
    ({"max_calls": -1}, ValueError, "max_calls must be an int of at least 0"),
    ({"retry_exceptions": ValueError}, TypeError, "True, False or a list of exception classes"),
    ({"retry_exceptions": [ValueError("x")]}, TypeError, r"ValueError\('x'\) in it is not a class"),
    ({"retry_exceptions": [int]}, ValueError, "int in it is not an exception"),
    ({"retry_exceptions": 1}, TypeError, "retry_exceptions must be True, False or a list"),
    ({"_generator_backpressure_num_objects": 0}, ValueError, "must not be 0: 1 makes each object"),
    ({"_generator_backpressure_num_objects": -2}, ValueError, "at least -1"),
    ({"object_store_memory": 100}, ValueError, "object_store_memory cannot be set for a task"),
]

ACTOR_BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"name": ""}, ValueError, "name must not be empty"),
    ({"namespace": ""}, ValueError, "namespace must not be empty"),
    ({"namespace": 1}, TypeError, "namespace must be a str or None"),
    ({"lifetime": "forever"}, ValueError, "'non_detached' or None, not 'forever'"),
    ({"lifetime": True}, TypeError, "lifetime must be a str or None"),
    ({"max_concurrency": 0}, ValueError, "max_concurrency must be an int of at least 1"),
    ({"max_restarts": -2}, ValueError, "max_restarts must be an int of at least -1"),
    ({"max_restarts": "1"}, TypeError, "max_restarts must be an int"),
    ({"max_task_retries": -2}, ValueError, "max_task_retries must be"),
    ({"max_pending_calls": -2}, ValueError, "max_pending_calls must be"),
    ({"get_if_exists": 1, "name": "a"}, TypeError, "get_if_exists must be True or False"),
    ({"get_if_exists": True}, ValueError, "get_if_exists=True needs a name"),
    ({"get_if_exists": True, "name": None}, ValueError, "get_if_exists=True needs a name"),
    ({"concurrency_groups": {"io": 0}}, ValueError, r"concurrency_groups\['io'\] must be an int"),
    ({"concurrency_groups": {"io": None}}, TypeError, r"concurrency_groups\['io'\] must be an int"),
    ({"concurrency_groups": {1: 1}}, TypeError, "1 is not a name"),
    ({"concurrency_groups": 2}, TypeError, "concurrency_groups must be a dict"),
    ({"concurrency_groups": [{"name": "io"}]}, ValueError, "need 'name' and 'max_concurrency'"),
]

METHOD_BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"num_returns": -1}, ValueError, "num_returns must not be negative"),
    ({"concurrency_group": 1}, TypeError, "concurrency_group must be a str or None"),
    ({"concurrency_group": ""}, ValueError, "concurrency_group must not be empty"),
    ({"max_task_retries": 0.5}, TypeError, "max_task_retries must be an int"),
    ({"_num_objects_per_yield": 0}, ValueError, "_num_objects_per_yield must be an int of at least 1"),
]


class TestRefused:
    @task_and_actor
    @pytest.mark.parametrize(("given", "error", "text"), COMMON_BAD, ids=repr)
    def test_common(self, validate: Validate, given: dict[str, Any], error: type[Exception], text: str) -> None:
        with pytest.raises(error, match=text):
            validate(**given)

    @pytest.mark.parametrize(("given", "error", "text"), TASK_BAD, ids=repr)
    def test_task(self, given: dict[str, Any], error: type[Exception], text: str) -> None:
        with pytest.raises(error, match=text):
            task(**given)

    @pytest.mark.parametrize(("given", "error", "text"), ACTOR_BAD, ids=repr)
    def test_actor(self, given: dict[str, Any], error: type[Exception], text: str) -> None:
        with pytest.raises(error, match=text):
            actor(**given)

    @pytest.mark.parametrize("validate", [method, call])
    @pytest.mark.parametrize(("given", "error", "text"), METHOD_BAD, ids=repr)
    def test_method(self, validate: Validate, given: dict[str, Any], error: type[Exception], text: str) -> None:
        with pytest.raises(error, match=text):
            validate(**given)


class TestUnknown:
    @pytest.mark.parametrize(
        ("validate", "name", "advice"),
        [
            (task, "num_cpu", "did you mean 'num_cpus'?"),
            (task, "retries", "did you mean 'max_retries'?"),
            (task, "max_restarts", "a task is repeated with max_retries"),
            (task, "namespace", "it is an option of an actor"),
            (task, "lifetime", "only actors have a lifetime"),
            (task, "tensor_transport", "it is an option of a method"),
            (task, "zzz", "remove it"),
            (actor, "max_retries", "max_restarts, and max_task_retries"),
            (actor, "num_returns", "@shoal.method(num_returns=...)"),
            (actor, "retry_exceptions", "@shoal.method(retry_exceptions=...)"),
            (actor, "max_calls", "exit_actor()"),
            (actor, "max_concurency", "did you mean 'max_concurrency'?"),
            (method, "num_cpus", "set them where the actor is made"),
            (method, "max_retries", "max_task_retries"),
            (call, "lifetime", "it is an option of an actor"),
            (call, "numreturns", "did you mean 'num_returns'?"),
        ],
    )
    def test_says_what_to_do(self, validate: Validate, name: str, advice: str) -> None:
        with pytest.raises(ValueError, match=f"^'{name}' is not an option of an? ") as caught:
            validate(**{name: 1})
        assert advice in str(caught.value)

    @pytest.mark.parametrize("in_options", [False, True])
    def test_lists_the_valid_ones(self, in_options: bool) -> None:
        with pytest.raises(ValueError, match="not an option") as caught:
            validate_task_options({"zzz": 1}, in_options=in_options)
        for option in ("max_retries", "memory", "num_cpus", "num_gpus", "num_returns", "resources"):
            assert option in str(caught.value)
        for option in ("max_restarts", "_labels", "object_store_memory"):
            assert option not in str(caught.value)

    def test_key_that_is_no_text(self) -> None:
        with pytest.raises(ValueError, match="'3' is not an option of a task"):
            validate_task_options({3: 1}, in_options=False)  # type: ignore[dict-item]


class TestRulesBetweenOptions:
    def test_max_calls_only_in_the_decorator(self) -> None:
        assert task(max_calls=3) == {"max_calls": 3}
        with pytest.raises(ValueError, match=r"max_calls cannot be set in \.options\(\)"):
            validate_task_options({"max_calls": 3}, in_options=True)

    def test_concurrency_groups_only_in_the_decorator(self) -> None:
        with pytest.raises(ValueError, match=r"concurrency_groups cannot be set in \.options\(\)"):
            validate_actor_options({"concurrency_groups": {"io": 1}}, in_options=True)

    def test_get_if_exists_finds_the_name_in_the_base(self) -> None:
        given = {"get_if_exists": True}
        assert validate_actor_options(given, in_options=True, base={"name": "a"}) == given
        with pytest.raises(ValueError, match="needs a name"):
            validate_actor_options(given, in_options=True, base={"num_cpus": 1})
        with pytest.raises(ValueError, match="needs a name"):
            validate_actor_options({"name": None}, in_options=True, base={"name": "a", **given})

    @pytest.mark.parametrize("validate", [validate_task_options, validate_actor_options])
    def test_placement_group_excludes_a_strategy(self, validate: Validate) -> None:
        group, strategy = {"placement_group": GROUP}, {"scheduling_strategy": "SPREAD"}
        for given, base in (({**group, **strategy}, None), (group, strategy), (strategy, group)):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                with pytest.raises(ValueError, match="exclude each other"):
                    validate(given, in_options=True, base=base)

    @task_and_actor
    def test_strategy_with_the_default_group(self, validate: Validate) -> None:
        given = {"placement_group": "default", "scheduling_strategy": "SPREAD"}
        assert validate(**given) == given


class TestDeprecated:
    @task_and_actor
    def test_placement_group(self, validate: Validate) -> None:
        with pytest.warns(DeprecationWarning, match="PlacementGroupSchedulingStrategy"):
            assert validate(placement_group=GROUP) == {"placement_group": GROUP}

    @pytest.mark.parametrize("validate", [task, method])
    def test_dynamic(self, validate: Validate) -> None:
        with pytest.warns(DeprecationWarning, match="use 'streaming'") as caught:
            assert validate(num_returns="dynamic") == {"num_returns": "dynamic"}
        assert caught[0].filename == __file__  # shown for the user's line, or it would not be shown at all

    def test_object_store_memory_of_an_actor(self) -> None:
        with pytest.warns(DeprecationWarning, match="has no effect: use memory"):
            assert actor(object_store_memory=100, num_cpus=1) == {"num_cpus": 1}

    @task_and_actor
    def test_object_store_memory_none(self, validate: Validate) -> None:
        assert validate(object_store_memory=None) == {}


class TestAmounts:
    @pytest.mark.parametrize(
        ("quantity", "units"),
        [
            (0, 0),
            (1, 10_000),
            (0.5, 5_000),
            (0.0001, 1),
            (0.0003, 3),  # 0.0003 * 10_000 is just below 3
            (0.29, 2_900),
            (1 / 3, 3_333),
            (2 / 3, 6_666),
            (1e-4 * 3, 3),
            (True, 10_000),
            (np.float32(0.5), 5_000),
            (np.int16(4), 40_000),
            (fractions.Fraction(1, 4), 2_500),
            (900_000_000_000_000, 9_000_000_000_000_000_000),
        ],
    )
    def test_fixed_point(self, quantity: Any, units: int) -> None:
        result = resource_units("num_cpus", quantity)
        assert result == units and type(result) is int

    def test_every_multiple_of_the_unit_is_exact(self) -> None:
        assert all(resource_units("x", units / RESOURCE_UNIT) == units for units in range(30_000))

    @pytest.mark.parametrize("parts", range(1, 101))
    def test_parts_of_one_fit_into_one(self, parts: int) -> None:
        assert resource_units("x", 1 / parts) * parts <= RESOURCE_UNIT

    def test_memory_is_in_whole_bytes(self) -> None:
        assert memory_bytes("memory", 10.7) == 10
        assert memory_bytes("memory", 2**62) == 2**62


class TestDemand:
    def test_default_cpus(self) -> None:
        assert resource_demand({}, default_cpus=1) == {"CPU": 10_000}
        assert resource_demand({"num_cpus": None}, default_cpus=0.5) == {"CPU": 5_000}
        assert resource_demand({}, default_cpus=0) == {}

    def test_all_kinds(self) -> None:
        options = task(num_cpus=2, num_gpus=0.5, memory=1e6, resources={"disk": 1, "seat": 0.0001})
        assert resource_demand(options, default_cpus=1) == {
            "CPU": 20_000,
            "GPU": 5_000,
            "memory": 1_000_000,
            "disk": 10_000,
            "seat": 1,
        }

    def test_zeros_are_dropped(self) -> None:
        options = {"num_cpus": 0, "num_gpus": 0.0, "memory": 0, "resources": {"disk": 0}}
        assert resource_demand(options, default_cpus=1) == {}

    def test_placement_is_no_resource(self) -> None:
        options = task(accelerator_type="H100", label_selector={"zone": "a"}, scheduling_strategy=ON_NODE)
        assert resource_demand(options, default_cpus=0) == {}

    @pytest.mark.parametrize(
        "options",
        [
            {"num_cpus": -1},
            {"num_gpus": 0.00001},
            {"memory": -1},
            {"resources": {"disk": -0.5}},
            {"resources": {"disk": 0.00009}},
            {"resources": {"CPU": 1}},
        ],
    )
    def test_refused(self, options: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="negative|finer than 0.0001|use the keyword"):
            resource_demand(options, default_cpus=1)


class TestInitResources:
    def test_only_what_was_given(self) -> None:
        assert validate_init_resources(None, None, None, None) == {}

    def test_all_kinds(self) -> None:
        total = validate_init_resources(4, 1, {"disk": 2.5}, 1e9)
        assert total == {"CPU": 40_000, "GPU": 10_000, "disk": 25_000, "memory": 1_000_000_000}

    def test_zero_is_an_answer(self) -> None:
        assert validate_init_resources(0, 0, {"disk": 0}, 0) == {"CPU": 0, "GPU": 0, "memory": 0, "disk": 0}

    @pytest.mark.parametrize(
        ("given", "error", "text"),
        [
            ((-1, None, None, None), ValueError, "num_cpus must not be negative"),
            ((None, -0.5, None, None), ValueError, "num_gpus must not be negative"),
            ((None, None, {"disk": -1}, None), ValueError, r"resources\['disk'\] must not be negative"),
            ((None, None, {"GPU": 1}, None), ValueError, "use the keyword num_gpus"),
            ((None, None, None, -1), ValueError, "memory is a number of bytes"),
            ((0.00001, None, None, None), ValueError, "finer than 0.0001"),
            (("4", None, None, None), TypeError, "num_cpus must be a number"),
            ((None, None, "disk", None), TypeError, "resources must be a dict"),
        ],
    )
    def test_refused(self, given: Any, error: type[Exception], text: str) -> None:
        with pytest.raises(error, match=text):
            validate_init_resources(*given)


class TestStrategies:
    def test_whichever_way_it_was_said(self) -> None:
        assert scheduling_strategy_of({}) is None
        assert scheduling_strategy_of({"scheduling_strategy": None, "placement_group": "default"}) is None
        assert scheduling_strategy_of({"scheduling_strategy": "SPREAD"}) == "SPREAD"
        assert scheduling_strategy_of({"scheduling_strategy": ON_NODE}) is ON_NODE
        assert scheduling_strategy_of({"placement_group": None}) == "DEFAULT"
        old = {"placement_group": GROUP, "placement_group_bundle_index": 1}
        old["placement_group_capture_child_tasks"] = True
        assert scheduling_strategy_of(old) == PlacementGroupSchedulingStrategy(GROUP, 1, True)

    def test_index_without_a_group(self) -> None:
        with pytest.raises(ValueError, match="placement_group_bundle_index=1 needs a placement group"):
            scheduling_strategy_of({"placement_group_bundle_index": 1})

    def test_placement_group(self) -> None:
        strategy = PlacementGroupSchedulingStrategy(placement_group=GROUP)
        assert strategy.placement_group is GROUP
        assert strategy.placement_group_bundle_index == -1
        assert strategy.placement_group_capture_child_tasks is None

    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            ((None,), TypeError),
            (("group",), TypeError),
            ((GROUP, -2), ValueError),
            ((GROUP, "0"), TypeError),
            ((GROUP, True), TypeError),
            ((GROUP, 0, 1), TypeError),
        ],
    )
    def test_placement_group_refused(self, arguments: Any, error: type[Exception]) -> None:
        with pytest.raises(error, match="placement_group"):
            PlacementGroupSchedulingStrategy(*arguments)

    def test_node_affinity(self) -> None:
        assert NodeAffinitySchedulingStrategy(b"\xab\x12", soft=False).node_id == "ab12"  # type: ignore[arg-type]
        assert NodeAffinitySchedulingStrategy("ab12", True) == ON_NODE and hash(ON_NODE)
        for node_id in (None, 3, 2.0):
            with pytest.raises(TypeError, match="node_id"):
                NodeAffinitySchedulingStrategy(node_id, soft=True)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="soft must be True or False"):
            NodeAffinitySchedulingStrategy("ab", soft=1)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="needs soft=True"):
            NodeAffinitySchedulingStrategy("ab", soft=False, _spill_on_unavailable=True)
        with pytest.raises(ValueError, match="needs soft=False"):
            NodeAffinitySchedulingStrategy("ab", soft=True, _fail_on_unavailable=True)

    def test_labels(self) -> None:
        strategy = NodeLabelSchedulingStrategy({"a": In("1", "2")}, {"b": NotIn("3"), "c": Exists()})
        assert strategy.hard == {"a": In("1", "2")} and strategy.soft == {"b": NotIn("3"), "c": Exists()}
        assert NodeLabelSchedulingStrategy(hard=None, soft={"d": DoesNotExist()}).hard == {}
        assert In("1") != NotIn("1") and In("1") != "1" and len({In("1"), In("1")}) == 1

    def test_labels_refused(self) -> None:
        with pytest.raises(TypeError, match="hard must be a dict"):
            NodeLabelSchedulingStrategy([In("a")])  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"soft\['zone'\] must be In"):
            NodeLabelSchedulingStrategy({}, {"zone": "a"})  # type: ignore[dict-item]
        with pytest.raises(TypeError, match="label names are strings"):
            NodeLabelSchedulingStrategy({1: Exists()})  # type: ignore[dict-item]
        with pytest.raises(ValueError, match="at least one label value"):
            In()
        with pytest.raises(TypeError, match="label values are strings"):
            NotIn(1)  # type: ignore[arg-type]


@pytest.mark.parametrize("module", [_options, scheduling_strategies])
def test_the_examples_run(module: Any) -> None:
    assert doctest.testmod(module).failed == 0
