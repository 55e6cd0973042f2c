rule example_images:
    """A few test slices of a dataset and scale by each method, for the figures and the page."""
    input:
        unpack(example_inputs),
    output:
        f"{RESULTS}/figures/examples/{{column}}.npz",
    log:
        f"{LOGS}/figures/examples/{{column}}.log",
    conda:
        CONDA
    resources:
        mem_mb=3000,
        runtime=60,
    params:
        settings=settings("examples/{column}"),
        guide=example_options,
    shell:
        "mrsr examples --settings {params.settings} --slices {input.slices} {params.guide}"
        " --out {output} > {log} 2>&1"


rule draw_figures:
    """The figures of the paper (Fig. 2 to 5 and 7), and those beside them."""
    input:
        metrics=metrics_paths(),
        examples=example_paths(),
        losses=loss_paths(),
    output:
        pdf=drawn_paths("pdf"),
        png=[
            report(
                path,
                caption=figures.caption(Path(path).stem),
                category="Figures",
                labels={"figure": Path(path).stem},
            )
            for path in drawn_paths("png")
        ],
    log:
        f"{LOGS}/figures.log",
    conda:
        CONDA
    resources:
        mem_mb=2000,
        runtime=20,
    params:
        settings=settings("figures"),
    shell:
        "mrsr figures --settings {params.settings} --out $(dirname {output.pdf} | head -1)"
        f" --results {Path(RESULTS).parent} > {{log}} 2>&1"


rule loss_curves:
    """Training, validation and test curves of one training, as in Fig. 7."""
    input:
        figure_input,
    output:
        report(
            f"{RESULTS}/figures/{{training}}.png",
            caption="../report/curves.rst",
            category="Loss curves",
            labels={"training": "{training}"},
        ),
    log:
        f"{LOGS}/figures/{{training}}.log",
    wildcard_constraints:
        training="|".join(map(flat, trainings())) or "none",
    group:
        "figures"
    conda:
        CONDA
    resources:
        mem_mb=1000,
        runtime=10,
    shell:
        "mrsr curves $(dirname {input})/log.jsonl --out {output} > {log} 2>&1"


rule figures:
    """Every figure."""
    input:
        drawn_paths("pdf"),
        drawn_paths("png"),
        figure_paths(),
