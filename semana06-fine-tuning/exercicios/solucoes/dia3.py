from torch.nn import functional


def perplexity(logits, labels):
    counts = labels != -100
    right = logits[counts].log_softmax(-1).gather(1, labels[counts][:, None])
    return (-right.mean()).exp().item()


def train_step(model, x, y, optimizer):
    loss = functional.cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def adamw_step(weight, gradient, m, v, step, lr, decay):
    m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
    mean, square = m / (1 - 0.9**step), v / (1 - 0.999**step)
    return weight - lr * decay * weight - lr * mean / (square.sqrt() + 1e-8), m, v
