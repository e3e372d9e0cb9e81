# Threads of the linear algebra library, random state, large arrays.
import hashlib
import numpy as np

rng = np.random.default_rng(7)
a = rng.standard_normal((300, 300))
for i in range(60):
    q, r = np.linalg.qr(a)
    a = q @ r + rng.standard_normal((300, 300)) * 1e-3
    a = a @ a.T / 300
    print(i, hashlib.sha256(np.round(a, 6).tobytes()).hexdigest()[:16] if i < 1 else i, float(np.round(a[0, 0], 3)), flush=True)
