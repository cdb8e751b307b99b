"""Zero-copy views: of every library, read-only, alive as long as they are used, and guarded by the hardware."""

import gc
import resource

import numpy as np
import pytest

import shoal
from conftest import leftovers, run_python, until
from shoal import _core

pytestmark = pytest.mark.usefixtures("audited")


def address(array):
    return array.__array_interface__["data"][0]


def mapped(place: int, name: str = "memfd:shoal") -> str:
    """The permissions of the mapping of the arena that `place` lies in; empty if it lies elsewhere."""
    with open("/proc/self/maps") as maps:
        for line in maps:
            span, permissions, *_, file = line.split(maxsplit=5)
            low, high = (int(x, 16) for x in span.split("-"))
            if low <= place < high and name in file:
                return permissions
    return ""


@shoal.remote
def describe(array):
    return address(array) != 0, array.flags.writeable, float(array.sum()), mapped(address(array))


# --- every library ------------------------------------------------------------------------------------------

ARRAYS = {
    "float64": lambda: np.arange(5000.0),
    "bool": lambda: np.ones(5000, bool),
    "complex": lambda: np.ones(5000, complex),
    "fortran": lambda: np.asfortranarray(np.arange(6000).reshape(60, 100)),
    "structured": lambda: np.zeros(500, [("a", "i4"), ("b", "f8", 3)]),
    "datetime": lambda: np.arange(5000).astype("M8[s]"),
    "fixed text": lambda: np.array(["abc", "d"] * 1000),
    "strided": lambda: np.arange(20_000)[::2],
    "three axes": lambda: np.arange(8000).reshape(20, 20, 20).transpose(1, 0, 2),
    "big endian": lambda: np.arange(5000, dtype=">i4"),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_are_read_only_views_of_the_arena(name):
    array = ARRAYS[name]()
    ref = shoal.put(array)
    view, again = shoal.get(ref), shoal.get(ref)
    assert view.dtype == array.dtype and view.shape == array.shape and (view == array).all()
    assert mapped(address(view)) == "r--s" and address(view) == address(again)
    assert not view.flags.writeable and address(view) % 64 == 0
    with pytest.raises(ValueError, match="read-only"):
        view[...] = array
    with pytest.raises(ValueError, match="WRITEABLE"):
        view.flags.writeable = True
    copy = view.copy()
    copy[...] = array  # what is the user's own can be written


def test_a_task_gets_views_of_its_arguments_and_the_caller_of_its_result():
    array = np.arange(1 << 18, dtype=np.float64)
    for given in (array, shoal.put(array)):
        assert shoal.get(describe.remote(given)) == (True, False, array.sum(), "r--s")

    @shoal.remote
    def make():
        return {"a": np.arange(1 << 18), "b": [np.ones(1 << 17)]}

    got = shoal.get(make.remote())
    assert mapped(address(got["a"])) == mapped(address(got["b"][0])) == "r--s"
    assert got["a"][-1] == (1 << 18) - 1 and got["b"][0].sum() == 1 << 17


def test_small_and_empty_arrays_are_read_only_too():
    for array in (np.zeros(0), np.zeros((3, 0)), np.array(5), np.arange(3)):
        view = shoal.get(shoal.put(array))
        assert view.shape == array.shape and (view == array).all() and not view.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            view[...] = 1


def test_a_view_of_a_view_is_put_again():
    view = shoal.get(shoal.put(np.arange(100_000)))
    again = shoal.get(shoal.put(view[10:50_000:3]))
    assert (again == np.arange(10, 50_000, 3)).all() and mapped(address(again)) == "r--s"


def test_arrow():
    pa = pytest.importorskip("pyarrow")
    table = pa.table({"n": list(range(10_000)), "s": [str(i) for i in range(10_000)]})
    view = shoal.get(shoal.put(table))
    assert view.equals(table)
    buffers = [b for column in view.columns for chunk in column.chunks for b in chunk.buffers() if b is not None]
    assert buffers and all(mapped(b.address) == "r--s" and not b.is_mutable for b in buffers if b.size >= 1024)
    with pytest.raises(ValueError, match="read-only"):
        view["n"].chunk(0).to_numpy()[0] = 1
    for value in (table.to_batches()[0], table["s"], table["n"].chunk(0), pa.array([[1], None] * 2000)):
        assert shoal.get(shoal.put(value)).equals(value)


def test_pandas():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"x": np.arange(10_000.0), "y": np.arange(10_000), "s": ["a", "b"] * 5000})
    view = shoal.get(shoal.put(frame))
    pd.testing.assert_frame_equal(view, frame)
    for name in ("x", "y"):
        assert mapped(address(view[name].to_numpy())) == "r--s"
        with pytest.raises(ValueError, match="read-only"):
            view[name].to_numpy()[0] = 1
    series = shoal.get(shoal.put(frame["x"]))
    assert mapped(address(series.to_numpy())) == "r--s"
    changed = view.assign(z=view["x"] + 1)
    assert changed["z"].iloc[5] == 6.0


def test_polars():
    pl = pytest.importorskip("polars")
    frame = pl.DataFrame({"x": np.arange(10_000.0), "s": [str(i) for i in range(10_000)]})
    view = shoal.get(shoal.put(frame))
    assert view.equals(frame)
    numbers = view["x"].to_numpy(allow_copy=False)
    assert mapped(address(numbers)) == "r--s" and not numbers.flags.writeable
    assert shoal.get(shoal.put(frame["s"])).equals(frame["s"])


def test_torch():
    torch = pytest.importorskip("torch")
    for tensor in (
        torch.arange(10_000),
        torch.ones(100, 100, dtype=torch.bfloat16),
        torch.nn.Linear(50, 50).weight,
    ):
        view = shoal.get(shoal.put(tensor))
        assert torch.equal(view, tensor) and mapped(view.data_ptr()) == "r--s"


def test_bytes_are_copied_and_memoryviews_are_views():
    data = bytes(range(256)) * 100
    assert shoal.get(shoal.put(data)) == data
    view = shoal.get(shoal.put(memoryview(data)))
    assert view.readonly and view == data
    assert mapped(address(np.frombuffer(view, np.uint8))) == "r--s"
    with pytest.raises(TypeError, match="read-only"):
        view[0] = 1


# --- nothing is copied --------------------------------------------------------------------------------------


def test_get_of_a_gigabyte_copies_nothing():
    done = run_python(
        """
        import resource, numpy as np, shoal
        shoal.init(num_cpus=1, object_store_memory=5 << 28)

        @shoal.remote
        def make():
            return np.empty(1 << 30, np.uint8)  # never touched: zero pages

        @shoal.remote
        def last(array):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            return int(array[-1]), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before

        def peak():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

        ref = make.remote()
        shoal.wait([ref])
        shoal.get(shoal.put(np.ones(10_000)))
        before, faults = peak(), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        views = [shoal.get(ref) for _ in range(100)]
        assert views[0].nbytes == 1 << 30 and len({v.__array_interface__["data"][0] for v in views}) == 1
        assert peak() - before < 1000, peak() - before  # KB
        assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults < 300
        value, grown = shoal.get(last.remote(ref))
        assert value == 0 and grown < 1000
        """
    )
    assert done.returncode == 0, done.stderr


def test_a_put_touches_the_memory_once():
    array = np.ones(1 << 23)  # 64 MB
    shoal.put(array)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ref = shoal.put(array)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 70_000, grown  # KB; an intermediate copy would be 64 MB more
    assert shoal.get(ref)[-1] == 1


# --- how long a view lives ----------------------------------------------------------------------------------


def test_a_view_keeps_its_object_for_as_long_as_it_lives():
    before = leftovers()
    view = shoal.get(shoal.put(np.full(100_000, 7)))
    part = view[500:600].reshape(10, 10).T
    del view
    gc.collect()
    assert leftovers() == before + 1
    others = [shoal.put(np.zeros(100_000)) for _ in range(20)]
    assert (part == 7).all()
    place = address(part)
    del part
    assert leftovers() == before + 20
    assert all(address(shoal.get(ref)) // 4096 != place // 4096 for ref in others)
    del others
    assert leftovers() == before


def test_memory_is_reused_only_after_the_last_view():
    view = shoal.get(shoal.put(np.full(1 << 20, 3, np.uint8)))
    where = address(view)
    other = shoal.put(np.zeros(1 << 20, np.uint8))
    assert address(shoal.get(other)) != where and view[0] == 3
    del view
    newest = shoal.put(np.zeros(1 << 20, np.uint8))
    assert address(shoal.get(newest)) == where  # the newest freed is the warmest


def test_part_of_a_value_keeps_the_whole():
    before = leftovers()
    value = shoal.get(shoal.put({"a": np.zeros(5000), "b": [np.ones(5000)], "ref": shoal.put(1)}))
    part = value["b"][0]
    del value
    gc.collect()
    assert leftovers() == before + 2  # with what it refers to
    assert part.sum() == 5000
    del part
    assert leftovers() == before


def test_a_view_in_a_worker_keeps_the_object():
    @shoal.remote
    def keep(array):
        import builtins

        builtins.__dict__.setdefault("views_of_test", []).append(array[::2])

    @shoal.remote
    def drop():
        import builtins

        views = builtins.__dict__.pop("views_of_test", [])
        return [float(view.sum()) for view in views]

    until(lambda: leftovers() == 0)
    shoal.get(keep.remote(np.ones(100_000)))
    until(lambda: leftovers() == 1)
    sums = []
    until(lambda: bool(sums.extend(sum(shoal.get([drop.remote() for _ in range(4)]), [])) or sums))
    assert sums == [50_000.0]
    until(lambda: leftovers() == 0)


def test_libraries_keep_the_object_through_their_own_types():
    pa = pytest.importorskip("pyarrow")
    pl = pytest.importorskip("polars")
    pd = pytest.importorskip("pandas")
    numbers = np.arange(50_000)
    for made, use in (
        (pa.table({"n": numbers}), lambda t: t["n"].chunk(0).slice(40_000, 10).to_pylist()),
        (pl.DataFrame({"n": numbers}), lambda t: t["n"].slice(40_000, 10).to_list()),
        (pd.DataFrame({"n": numbers}), lambda t: t["n"].iloc[40_000:40_010].to_list()),
    ):
        gc.collect()
        before = leftovers()
        view = shoal.get(shoal.put(made))
        assert leftovers() == before + 1
        noise = [shoal.put(np.zeros(50_000)) for _ in range(4)]
        assert use(view) == list(range(40_000, 40_010))
        del noise, view
        gc.collect()
        assert leftovers() == before


def test_views_stay_readable_after_shutdown_and_through_the_next_session():
    done = run_python(
        """
        import gc, numpy as np, shoal
        from shoal import _core
        shoal.init(num_cpus=1)

        @shoal.remote
        def make():
            return np.arange(1 << 20)

        own, made = shoal.get([shoal.put(np.full(100_000, 5)), make.remote()])
        shared = shoal.get(shoal.put(np.zeros(1000), mutable=True))
        shoal.shutdown()
        assert own.sum() == 500_000 and made[-1] == (1 << 20) - 1
        shared[:] = 4
        for _ in range(3):
            shoal.init(num_cpus=1)
            new = shoal.get([shoal.put(np.full(100_000, 6)), make.remote()])
            assert own.sum() == 500_000 and made[-1] == (1 << 20) - 1 and shared.sum() == 4000
            part = new[0][:10]
            del new
            shoal.shutdown()
            assert part.sum() == 60
            del part
        del own, made
        assert shared.sum() == 4000
        del shared
        gc.collect()
        with open("/proc/self/maps") as maps:
            assert "memfd:shoal" not in maps.read()  # nothing is left mapped
        """
    )
    assert done.returncode == 0, done.stderr


# --- writing to it anyway -----------------------------------------------------------------------------------

FORCE = {
    "ctypes": "ctypes.memset(place, 1, 8)",
    "from_address": "(ctypes.c_char * 8).from_address(place)[0] = b'x'",
    "strides": "np.ctypeslib.as_array(ctypes.cast(place, ctypes.POINTER(ctypes.c_double)), (8,))[0] = 1",
    "array interface": (
        "class A: __array_interface__ = {**view.__array_interface__, 'data': (place, False)}\nnp.asarray(A())[0] = 1"
    ),
}


@pytest.mark.parametrize("how", FORCE)
def test_writing_through_a_forced_pointer_faults_in_that_process_only(how):
    done = run_python(
        """
        import ctypes, sys, numpy as np, shoal
        from shoal.exceptions import WorkerCrashedError
        shoal.init(num_cpus=2, log_to_driver=False)
        code = sys.argv[1]

        @shoal.remote(max_retries=0)
        def vandal(view):
            exec(code, {"np": np, "ctypes": ctypes, "view": view, "place": view.__array_interface__["data"][0]})
            return "written"

        @shoal.remote
        def total(view):
            return float(view.sum())

        ref = shoal.put(np.ones(10_000))
        mine = shoal.get(ref)
        for _ in range(2):
            try:
                print(shoal.get(vandal.remote(ref)))
            except WorkerCrashedError as error:
                print("SIGSEGV" in str(error))
        assert mine.sum() == 10_000 and shoal.get(total.remote(ref)) == 10_000
        assert shoal.get([total.remote(shoal.put(np.ones(k))) for k in range(1, 50)]) == list(range(1, 50))
        """,
        FORCE[how],
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["True", "True"]


def test_no_process_but_the_writer_is_affected_when_the_driver_forces_it():
    done = run_python(
        """
        import ctypes, numpy as np, shoal
        shoal.init(num_cpus=1)
        view = shoal.get(shoal.put(np.ones(10_000)))
        ctypes.memset(view.__array_interface__["data"][0], 1, 8)
        """
    )
    assert done.returncode == -11


def test_the_statistics_add_up():
    before = _core.statistics()["used_bytes"]
    ref = shoal.put(np.zeros(1 << 20))
    assert _core.object_info(ref)["bytes"] >= 8 << 20
    assert 8 << 20 <= _core.statistics()["used_bytes"] - before <= (8 << 20) + (1 << 17)
    del ref
    assert _core.statistics()["used_bytes"] <= before + (1 << 17)
