rule tracking_store:
    """Initialise the MLflow store once: several writers on a fresh database crash."""
    output:
        f"{RESULTS}/tracking.ready",
    log:
        f"{LOGS}/tracking_store.log",
    conda:
        "../../envs/conda.yaml"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        tracking=as_json(PARAMS.params.tracking.model_dump()),
    shell:
        "mrsr tracking-init --settings {params.tracking:q} --out {output} > {log} 2>&1"


rule train_sr:
    """Train one method on one dataset at one scale; killed and started again, it goes on."""
    input:
        train=f"{RESULTS}/slices/{{dataset}}/train.h5",
        validation=f"{RESULTS}/slices/{{dataset}}/validation.h5",
        test=f"{RESULTS}/slices/{{dataset}}/test.h5",
        tracking=ancient(f"{RESULTS}/tracking.ready"),
    output:
        f"{RESULTS}/checkpoints/{{dataset}}/x{{scale}}/{{method}}/best.pt",
    log:
        f"{LOGS}/checkpoints/{{dataset}}/x{{scale}}/{{method}}.log",
    benchmark:
        f"{LOGS}/benchmarks/{{dataset}}/x{{scale}}/{{method}}.tsv"
    conda:
        "../../envs/conda.yaml"
    threads: train_threads
    resources:
        mem_mb=3000,
        runtime=240,
    params:
        settings=train_settings,
    shell:
        "python -m mrsr.train_sr --settings {params.settings:q} --train {input.train}"
        " --validation {input.validation} --test {input.test} --out {output}"
        " > {log} 2>&1"


rule checkpoints:
    """The weights of every trained cell."""
    input:
        cell_paths(
            f"{RESULTS}/checkpoints/{{dataset}}/x{{scale}}/{{method}}/best.pt",
            trained_only=True,
        ),
