import sys
from types import SimpleNamespace

import pytest

from kdc.measure.energy import meter_for


def zone(root, name, energy, wrap=1_000_000):
    folder = root / name
    folder.mkdir()
    (folder / "energy_uj").write_text(f"{energy}\n")
    (folder / "max_energy_range_uj").write_text(f"{wrap}\n")
    return folder / "energy_uj"


def test_packages_add_up_their_parts_do_not_and_counters_wrap(tmp_path):
    first, second = zone(tmp_path, "intel-rapl:0", 400_000), zone(tmp_path, "intel-rapl:1", 900_000)
    zone(tmp_path, "intel-rapl:0:0", 5)
    meter = meter_for("cpu", root=tmp_path)
    meter.start()
    first.write_text("700000\n")
    second.write_text("100000\n")
    assert meter.joules() == pytest.approx(0.3 + 0.2)


def test_none_where_there_are_no_counters_or_they_may_not_be_read(tmp_path):
    assert meter_for("cpu", root=tmp_path) is None
    zone(tmp_path, "intel-rapl:0", 4).unlink()
    assert meter_for("cpu", root=tmp_path) is None


class NVMLError(Exception):
    pass


def nvml(read):
    return SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=lambda uuid: uuid,
        nvmlDeviceGetTotalEnergyConsumption=read,
    )


@pytest.fixture
def second_card(monkeypatch):
    """The process computes on the card that CUDA shows it, which is no other's first."""
    import torch

    cards = [SimpleNamespace(uuid="11111111-aaaa"), SimpleNamespace(uuid="22222222-bbbb")]
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: cards[device])


def test_a_gpus_counter_is_in_millijoules_and_that_of_the_card_that_computes(second_card, monkeypatch):
    counts, read = iter([0, 1000, 3500]), []
    monkeypatch.setitem(sys.modules, "pynvml", nvml(lambda handle: (read.append(handle), next(counts))[1]))
    meter = meter_for("cuda")
    meter.start()
    assert meter.joules() == 2.5
    assert set(read) == {"GPU-22222222-bbbb"}


def test_none_without_nvml_or_with_a_card_that_does_not_count(second_card, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert meter_for("cuda") is None

    def refuse(handle):
        raise NVMLError("not supported")

    monkeypatch.setitem(sys.modules, "pynvml", nvml(refuse))
    assert meter_for("cuda") is None
