"""Trains the demonstration network and writes letters.onnx, test.npz and calibration.npz beside this file.

Needs PyTorch, which bitloom itself does not: `pip install torch==2.13.0`. Run from the repository's root,
`python -m examples.letters.train`.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch.nn import functional

from examples.letters.network import LetterNetwork, export
from examples.letters.render import TEST_FONTS, TRAINING_FONTS, LabelledImages, model_input, render

SEED = 20_261
TRAINING_COUNT = 43_940  # 130 pictures of every letter in every training font
TEST_COUNT = 1_040
CALIBRATION_COUNT = 104
BATCH = 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(SEED)
    training = render(TRAINING_FONTS, TRAINING_COUNT, SEED)
    calibration = render(TRAINING_FONTS, CALIBRATION_COUNT, SEED + 1)
    test = render(TEST_FONTS, TEST_COUNT, SEED + 2)
    network = train(training, arguments.epochs)
    model = arguments.output / "letters.onnx"
    export(network, model)
    np.savez_compressed(arguments.output / "test.npz", images=test.images, labels=test.labels)
    np.savez_compressed(arguments.output / "calibration.npz", image=model_input(calibration.images))
    print(f"test accuracy {accuracy(model, test):.4f}")


def train(data: LabelledImages, epochs: int) -> LetterNetwork:
    # Convolutions run 1.6 times faster in this layout. torch's stubs lack the overload.
    network = LetterNetwork().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    images = torch.from_numpy(model_input(data.images))
    labels = torch.from_numpy(data.labels.astype(np.int64))
    optimizer = torch.optim.AdamW(network.parameters(), lr=4e-3, weight_decay=0.02)
    batches = len(labels) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=epochs * batches)
    for epoch in range(epochs):
        start, total_loss = time.perf_counter(), 0.0
        order = torch.randperm(len(labels))
        for batch in order[: batches * BATCH].view(batches, BATCH):
            optimizer.zero_grad()
            scores = network(images[batch])
            loss = functional.cross_entropy(scores, labels[batch])
            loss.backward()
            optimizer.step()
            schedule.step()
            total_loss += loss.item()
        seconds = time.perf_counter() - start
        print(
            f"epoch {epoch + 1}/{epochs}: loss {total_loss / batches:.4f}, {seconds:.0f} s", file=sys.stderr
        )
    return network.eval()


def accuracy(model: Path, data: LabelledImages) -> float:
    """Fraction of data that the ONNX file classifies rightly under onnxruntime, in float32."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    probabilities = [np.asarray(session.run(None, {"image": x[None]})[0]) for x in model_input(data.images)]
    predicted = np.concatenate(probabilities).argmax(axis=1)
    return float(np.mean(predicted == data.labels))


if __name__ == "__main__":
    main()
