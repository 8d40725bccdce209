/** Scores beside the threshold: those of the hits, and those of passages that answer a question or do not, as the calibration measured them. */

import { useMemo } from "preact/hooks";

import { ask } from "./api";
import { Chart } from "./chart";
import { Problem, useLoaded } from "./parts";
import type { Distribution, Found, Hit } from "./types";

const BINS = 20;
const MIDDLES = Array.from({ length: BINS }, (_, bin) => (bin + 0.5) / BINS);

export function Scores({ found, used, threshold }: { found: Found; used: Hit[]; threshold: number }) {
  const scores = useMemo(() => found.data.map((hit) => hit.scores.calibrated), [found]);
  const [above, below] = [scores.filter((score) => score >= threshold), scores.filter((score) => score < threshold)];
  const data = useMemo<[number[], number[], number[]]>(() => [MIDDLES, counted(below), counted(above)], [scores, threshold]);
  return (
    <>
      <p role="status">
        {above.length} of {scores.length} hits reach {threshold.toFixed(2)}; an answer would rest on {used.length}
        {used.length === 0 && ", so it would abstain"}.
      </p>
      <Chart name="Hits by calibrated score" data={data} mark={threshold} lines={[{ label: "below the threshold", bars: true, quiet: true }, { label: "at or above it", bars: true }]} />
    </>
  );
}

/** What the threshold parts, measured when the release was calibrated. */
export function Parted({ release, threshold }: { release: string; threshold: number }) {
  const { data, fault, again } = useLoaded((signal) => ask<{ scores: Distribution | null }>("/admin/scores", { release }, signal), [release]);
  return (
    <section aria-label="Relevant and irrelevant passages">
      <h2>Relevant and irrelevant passages</h2>
      <Problem fault={fault} again={again} />
      {data?.scores && <Measured scores={data.scores} threshold={threshold} />}
      {data && !data.scores && <p class="quiet">Nothing was measured for this release: it is older than this figure, or its passages are found and scored elsewhere.</p>}
    </section>
  );
}

function Measured({ scores, threshold }: { scores: Distribution; threshold: number }) {
  const { relevant, irrelevant, asked } = scores;
  const data = useMemo<[number[], number[], number[]]>(() => [MIDDLES, shares(irrelevant), shares(relevant)], [scores]);
  const reach = (which: number[]): number => which.filter((score) => score >= threshold).length;
  return (
    <>
      <p role="status">
        At {threshold.toFixed(2)}, {relevant.length > 0 && `${reach(relevant)} of ${relevant.length} relevant passages and `}
        {reach(irrelevant)} of {irrelevant.length} irrelevant {relevant.length > 0 ? "ones" : "passages"} pass.
      </p>
      <Chart
        name="Relevant and irrelevant passages by calibrated score, in per cent of each"
        data={data}
        mark={threshold}
        lines={[
          { label: "irrelevant, %", bars: true, quiet: true, side: "left" },
          { label: "relevant, %", bars: true, side: "right" },
        ]}
      />
      <p class="quiet">
        {asked === 0
          ? "Relevant: none. The documents are too few, or hold too little prose, to make questions from."
          : `Relevant: ${asked} questions made from passages of these documents, and the score of the question's own passage; it was among the five best for ${relevant.length}. They use the passage's words; people's own questions may score lower.`}{" "}
        Irrelevant: {irrelevant.length} questions that people asked about other things, and the score of the best passage; one or another may be answered here all the
        same. Both were measured when the release was calibrated, by these questions among others.
      </p>
    </>
  );
}

function counted(scores: number[]): number[] {
  const counts = new Array<number>(BINS).fill(0);
  for (const score of scores) {
    const bin = Math.min(BINS - 1, Math.floor(score * BINS));
    counts[bin] = (counts[bin] ?? 0) + 1;
  }
  return counts;
}

const shares = (scores: number[]): number[] => counted(scores).map((count) => (100 * count) / Math.max(1, scores.length));
