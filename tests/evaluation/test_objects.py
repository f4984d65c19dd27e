import torch

from robustdet.evaluation.objects import ObjectCounts, count_objects
from robustdet.evaluation.store import Outcome
from tests.evaluation.scenes import detections, scene, target

A, B, C = [0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]


def outcome(*found):
    boxes, scores, labels = zip(*found, strict=True) if found else ([], [], [])
    return Outcome(detections(list(boxes), list(scores), list(labels)), {})


def counts(clean, attacked, one):
    return count_objects({one.image_id: clean}, {one.image_id: attacked}, {one.image_id: one})


def test_each_fate_of_an_object():
    one = target("a", [A, B, C], [1, 2, 3])
    clean = outcome((A, 0.9, 1), (B, 0.8, 2), (C, 0.7, 3))
    attacked = outcome((A, 0.9, 1), (B, 0.8, 1), ([0, 50, 9, 60], 0.5, 2), (C, 0.29, 3))
    assert counts(clean, attacked, one) == ObjectCounts(0.3, 0.5, 3, 3, 1, 1, 1, 1, 0, 1)


def test_what_was_never_found_cannot_be_lost():
    one = target("a", [A], [1])
    assert counts(outcome((A, 0.9, 2)), outcome((A, 0.9, 1)), one) == ObjectCounts(0.3, 0.5, 1, 0, 1, 0, 0, 0, 0, 0)


def test_difficult_and_crowd_objects_neither_count_nor_make_a_detection_fabricated():
    one = target("a", [A, B], [1, 2], difficult=[True, False], crowd=[False, True])
    found = outcome((A, 0.9, 3), (B, 0.9, 2), (C, 0.9, 1))
    assert counts(found, found, one) == ObjectCounts(0.3, 0.5, 0, 0, 0, 0, 0, 0, 1, 1)


def test_images_without_detections_or_objects():
    empty = target("a", [], [])
    assert counts(outcome(), outcome((A, 0.5, 1)), empty) == ObjectCounts(0.3, 0.5, 0, 0, 0, 0, 0, 0, 0, 1)
    assert counts(outcome((A, 0.5, 1)), outcome(), target("a", [A], [1])).vanished == 1


def slowly(clean, attacked, targets, threshold):
    """The docstring of `ObjectCounts` word by word, with loops."""

    def iou(a, b):
        width = min(a[2], b[2]) - max(a[0], b[0])
        height = min(a[3], b[3]) - max(a[1], b[1])
        common = max(width, 0) * max(height, 0)
        area = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
        return common / (area - common)

    def found(image, j, detections):
        boxes, labels = image.boxes.double().tolist(), image.labels.tolist()
        for box, score, label in detections:
            overlaps = [iou(box, other) if name == label else -1 for other, name in zip(boxes, labels, strict=True)]
            if score >= threshold and overlaps and max(overlaps) >= 0.5 and overlaps.index(max(overlaps)) == j:
                return True
        return False

    names = ("objects", "found_clean", "found", "kept", "mislabelled", "vanished", "fabricated_clean", "fabricated")
    total = dict.fromkeys(names, 0)
    for key, image in targets.items():
        before, after = (
            list(zip(d.boxes.double().tolist(), d.scores.tolist(), d.labels.tolist(), strict=True))
            for d in (clean[key].detections, attacked[key].detections)
        )
        for j, box in enumerate(image.boxes.double().tolist()):
            if image.difficult[j] or image.crowd[j]:
                continue
            first, second = found(image, j, before), found(image, j, after)
            other = any(s >= threshold and n != int(image.labels[j]) and iou(b, box) >= 0.5 for b, s, n in after)
            total["objects"] += 1
            total["found_clean"] += first
            total["found"] += second
            total["kept"] += first and second
            total["mislabelled"] += first and not second and other
            total["vanished"] += first and not second and not other
        for name, seen in (("fabricated_clean", before), ("fabricated", after)):
            total[name] += sum(
                s >= threshold and all(iou(b, box) < 0.5 for box in image.boxes.double().tolist()) for b, s, _ in seen
            )
    return total


def test_counts_are_those_of_a_slow_loop():
    found, targets = scene(60, 3, seed=1, crowd=0.1)
    hurt, _ = scene(60, 3, seed=1, crowd=0.1)
    g = torch.Generator().manual_seed(5)
    clean = {key: Outcome(value, {}) for key, value in found.items()}
    attacked = {}
    for key, value in hurt.items():
        keep = torch.rand(len(value.labels), generator=g) < 0.7
        labels = torch.where(torch.rand(len(value.labels), generator=g) < 0.3, value.labels % 3 + 1, value.labels)
        attacked[key] = Outcome(detections(value.boxes[keep], value.scores[keep], labels[keep]), {})
    for threshold in (0.3, 0.5):
        fast = count_objects(clean, attacked, targets, threshold)
        expected = slowly(clean, attacked, targets, threshold)
        assert {name: getattr(fast, name) for name in expected} == expected
        assert fast.found_clean == fast.kept + fast.mislabelled + fast.vanished
        assert min(expected.values()) > 0
