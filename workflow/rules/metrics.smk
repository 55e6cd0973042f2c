rule evaluate:
    """Whole test slices through one method: a JSON with its own labels, a CSV per slice."""
    input:
        unpack(evaluate_inputs),
        tracking=ancient(f"{RESULTS}/tracking.ready"),
    output:
        f"{RESULTS}/metrics/{{dataset}}/x{{scale}}/{{method}}.json",
    log:
        f"{LOGS}/metrics/{{dataset}}/x{{scale}}/{{method}}.log",
    benchmark:
        f"{LOGS}/benchmarks/metrics/{{dataset}}/x{{scale}}/{{method}}.tsv"
    conda:
        CONDA
    resources:
        mem_mb=3000,
        runtime=60,
    params:
        settings=settings("metrics/{dataset}/x{scale}/{method}"),
        files=evaluate_options,
    shell:
        "python -m mrsr.metrics.evaluate --settings {params.settings} --slices {input.slices}"
        " {params.files} --out {output} > {log} 2>&1"


rule probe_autoencoder:
    """What an auto-encoder has learned, on test subjects."""
    input:
        checkpoint=f"{RESULTS}/checkpoints/{{dataset}}/x{{scale}}/autoencoder/best.pt",
        slices=f"{RESULTS}/slices/{{dataset}}/test.h5",
    output:
        f"{RESULTS}/metrics/{{dataset}}/x{{scale}}/autoencoder.probe",
    log:
        f"{LOGS}/metrics/{{dataset}}/x{{scale}}/autoencoder.log",
    conda:
        CONDA
    resources:
        mem_mb=3000,
        runtime=60,
    shell:
        "python -m mrsr.metrics.probe --checkpoint {input.checkpoint}"
        " --slices {input.slices} --limit 24 --out {output} > {log} 2>&1"


rule metrics:
    """The metrics of every cell."""
    input:
        metrics_paths(),
        probe_paths(),
