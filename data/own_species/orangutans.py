#!/usr/bin/env python3
"""Simulate joint SFS of the two orang-utan species, with and without their migration.

    python orangutans.py
    python orangutans.py --n 1 --vcf

The first command writes 20 spectra of each history, `orangutans/spectra/with_migration_01.fs` and
so on; the second one of each, and its VCF. The history is Locke et al.'s (2011), from stdpopsim.
"""

import argparse
import copy
from pathlib import Path

import msprime
import numpy as np
import stdpopsim

SPECIES = ("Bornean", "Sumatran")  # A and B, populations 0 and 1 of the history
N_INDIVIDUALS = 10  # of each
MUTATION_RATE, RECOMBINATION_RATE = 2e-8, 1e-8  # per base pair per generation
LOCUS_BP = 20_000


def histories():
    """The published history, a `msprime.Demography`, and the same without migration."""
    published = stdpopsim.get_species("PonAbe").get_demographic_model("TwoSpecies_2L11").model
    isolated = copy.deepcopy(published)  # stdpopsim has one object for all: leave it as it is
    isolated.migration_matrix[:] = 0
    return {"with_migration": published, "without_migration": isolated}


def simulate(history, n_loci, rng):
    """The genealogies of independent loci, with mutations at a finite number of sites."""
    loci = msprime.sim_ancestry(
        dict.fromkeys(SPECIES, N_INDIVIDUALS),
        demography=history,
        sequence_length=LOCUS_BP,
        recombination_rate=RECOMBINATION_RATE,
        num_replicates=n_loci,
        random_seed=rng.integers(1, 2**32),
    )
    for trees in loci:
        yield msprime.sim_mutations(trees, rate=MUTATION_RATE, random_seed=rng.integers(1, 2**32))


def vcf(loci, names):
    """The lines of a VCF: each locus is a contig, and AA= in INFO the ancestral allele."""
    for number, trees in enumerate(loci):
        contig = {"contig_id": f"locus_{number}", "individual_names": names}
        text = trees.as_vcf(position_transform=lambda x: np.add(x, 1).astype(int), **contig)
        for line in text.splitlines(keepends=True):
            if not line.startswith("#"):
                cells = line.split("\t")
                yield "\t".join([*cells[:7], f"AA={cells[3]}", *cells[8:]])  # REF, here
            elif number == 0 and not line.startswith("##contig"):
                yield line


def main(argv=None):
    """Simulate and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--n", type=int, default=20, help="spectra of each history (default: 20)")
    add("--n_loci", type=int, default=200, help="of 20,000 bp (default: 200)")
    add("--seed", type=int, default=1, help="(default: 1)")
    add("--vcf", action="store_true", help="a VCF beside each spectrum, too")
    add("--out", type=Path, default=Path("orangutans/spectra"), metavar="FOLDER")
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    individuals = {f"{one}_{i}": one for one in SPECIES for i in range(1, N_INDIVIDUALS + 1)}
    lines = map("\t".join, individuals.items())
    (options.out / "species.txt").write_text("\n".join(lines) + "\n")
    for which, (name, history) in enumerate(histories().items()):
        for number in range(1, options.n + 1):
            rng = np.random.default_rng([options.seed, which, number])
            loci = list(simulate(history, options.n_loci, rng))
            samples = [loci[0].samples(population=0), loci[0].samples(population=1)]
            form = {"polarised": True, "span_normalise": False}
            sfs = sum(trees.allele_frequency_spectrum(samples, **form) for trees in loci)
            path = options.out / f"{name}_{number:02}.fs"
            header = '{} {} unfolded "{}" "{}"'.format(*sfs.shape, *SPECIES)
            np.savetxt(path, [sfs.ravel()], "%d", header=header, comments="")
            print(f"{path}: {sfs.sum():,.0f} SNPs", flush=True)
            if options.vcf:
                path.with_suffix(".vcf").write_text("".join(vcf(loci, list(individuals))))


if __name__ == "__main__":
    main()
