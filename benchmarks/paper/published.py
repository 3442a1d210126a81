"""Figures that the paper gives. SDPO, arXiv:2411.11727v2."""

PUBLISHED = {
    "imagereward": {
        "before training": "1.126 1.101 1.038 0.976",
        "d3po": "1.292 1.211 1.176 1.210",
        "ddpo": "1.380 1.252 1.378 1.387",
        "prdp-rebel": "1.280 1.305 1.289 1.294",
        "sdpo": "1.719 1.559 1.545 1.601",
    },
    "aesthetic": {
        "before training": "6.064 5.955 5.842 5.745",
        "d3po": "6.292 6.208 6.159 6.116",
        "ddpo": "6.644 6.584 6.595 6.720",
        "prdp-rebel": "6.509 6.471 6.472 6.418",
        "sdpo": "7.062 7.516 7.867 8.163",
    },
    "hpsv2": {
        "before training": "27.85 28.22 28.41 28.26",
        "d3po": "28.06 28.51 28.77 28.78",
        "ddpo": "28.54 28.75 28.99 29.05",
        "prdp-rebel": "28.28 28.58 28.87 28.97",
        "sdpo": "28.77 29.14 29.35 29.36",
    },
    "pickscore": {
        "before training": "22.69 22.88 22.91 22.68",
        "d3po": "22.64 22.95 23.16 23.00",
        "ddpo": "22.65 22.94 23.04 23.29",
        "prdp-rebel": "22.61 22.86 23.01 23.19",
        "sdpo": "23.02 23.22 23.60 24.05",
    },
}
"""Table I of the paper, on SD-Turbo, by reward, model and number of steps 1, 2, 4, 8."""
