/** What `/v1` and `/admin` answer, as far as the console reads it. */

export interface Key {
  key: string;
  tenant: string;
  groups: string[];
  admin: boolean;
}

export interface Passage {
  chunk: string;
  document: string;
  title: string;
  path: string[];
  start: number;
  end: number;
  text: string;
}

export interface Citation extends Passage {
  number: number;
  score: number;
  /** What the passages were ordered by; 0 or absent where the origin does not tell. */
  fused?: number;
}

export interface Told {
  release: string;
  basis: "generated" | "quoted" | "abstained";
  question: string;
  rewritten: boolean;
  abstained: boolean;
  best: number;
  threshold: number;
  citations: Citation[];
}

export interface Delta {
  error?: { message: string; code: string | null };
  choices?: { delta: { content?: string } }[];
  ragstone?: Told;
}

export interface Hit extends Passage {
  rank: number;
  scores: { dense: number; keyword: number; fused: number; calibrated: number };
}

export interface Found {
  release: string;
  query: string;
  threshold: number;
  data: Hit[];
}

/** Scores P(relevant), each of one question. */
export interface Distribution {
  relevant: number[];
  irrelevant: number[];
  asked: number;
}

export interface Names {
  data: { id: string; ragstone: { release: string } }[];
}

export interface Span {
  chunk: string;
  start: number;
  end: number;
  path: string[];
}

export interface Document {
  release: string;
  document: string;
  title: string;
  groups: string[];
  metadata: Record<string, string>;
  characters: number;
  start: number;
  end: number;
  text: string;
  chunks: Span[];
}

export interface Listing {
  release: string;
  total: number;
  offset: number;
  data: { document: string; title: string; type: string; groups: string[]; characters: number; chunks: number }[];
  failed: number;
  failures: { path: string; reason: string }[];
}

export interface Release {
  release: string;
  snapshot: string;
  model: string;
  index: string;
  generator: Record<string, number>;
  retrieval: Record<string, number>;
  calibration: number[];
  prompt: string;
  note: string;
  withdrawn: boolean;
}

export interface Entry {
  channel: string;
  number: number;
  release: string;
  at: number;
  returns_to: number | null;
  canary: Record<string, number>;
}

export interface Releases {
  channel: string;
  releases: Release[];
  channels: Record<string, Entry[]>;
}

export interface Change {
  question: string;
  document: string;
  rank_before: number | null;
  rank_after: number | null;
  before: number;
  after: number;
}

export interface Guard {
  guard: string;
  way: string;
  gain: number;
  low: number;
  high: number;
  held: boolean;
}

export interface Verdict {
  promoted: boolean;
  base: number;
  tuned: number;
  gain: number;
  low: number;
  high: number;
  margin: number;
  questions: number;
  share: number;
  wins: number;
  losses: number;
  metric: string;
  kind: string;
  reason: string;
  guards: Guard[];
  changes: Change[];
  hidden: number;
  model: string | null;
  at: number;
  curve: { step: number; loss: number; held_out?: number }[];
}

export interface Model {
  model: string;
  name: string;
  base: string;
  dimensions: number;
  releases: string[];
  lineage: Record<string, unknown>;
  incumbent: string | null;
  snapshot: string | null;
}

export interface Models {
  in_force: string | null;
  models: Model[];
  verdicts: Verdict[];
}

export type Samples = Record<string, [Record<string, string>, number][]>;

/** A replica of a version; nulls where the service does not tell. */
export interface Replica {
  version: string;
  replica: string | null;
  cpu: number | null;
  busy: number | null;
  waiting: number | null;
}

export interface Figures {
  at: number;
  release: string | null;
  number: number | null;
  reason: string;
  versions: Record<string, number>;
  replicas: Replica[];
  retrieving: number;
  queue: number;
  samples: Samples;
  slowest: Slow[];
}

export interface Slow {
  at: number;
  total: number;
  search: number;
  first: number;
  tokens: number;
  basis: string;
  release: string;
  service: string;
  tenant: string;
  request: string;
  question: string;
}

export interface Standing {
  limit: number;
  remaining: number;
  reset: number;
}

export interface Limits {
  key: string;
  tenant: string;
  requests: Standing;
  tokens: Standing;
}

export interface Term {
  word: string;
  before: [number, number];
  after: [number, number];
  moved: number;
  near_before: string[];
  near_after: string[];
}

export interface TermMap {
  terms: Term[];
  shown: [number, number];
}

export interface Edge {
  requests: number;
  flights: number;
  entries: number;
  bytes: number;
  samples: Samples;
  limits: Limits[];
  shared: boolean;
}

export interface Run {
  id: string;
  kind: string;
  pid: number;
  began: number;
  seen: number;
  state: "running" | "done" | "failed" | "stopped" | "killed";
  stage: string;
  done: number;
  total: number | null;
  left: number | null;
  /** What it is at: of a sync, the path of the file that is read. */
  note: string;
  failures: { path: string; reason: string }[];
  curve: { step: number; loss: number; held_out?: number }[];
  error: string;
  result: unknown;
  hidden: boolean;
}

export interface Runs {
  minutes: number;
  /** The folder that a sync reads. */
  source: string;
  runs: Run[];
}

export interface Figure {
  metric: string;
  means: number[];
  questions: number;
  documents: number;
  difference: { mean: number; low: number; high: number } | null;
  verdict: string;
}

export interface Mark {
  recall: number | null;
  ndcg: number | null;
  rank: number | null;
  basis: string | null;
  text: string;
  groundedness: number | null;
}

export interface Exam {
  releases: string[];
  figures: Figure[];
  /** How many questions there are; they themselves come with the newest exam alone. */
  asked: number;
  questions?: { question: string; groups: string[]; where: string; marks: Mark[] }[];
  unusable: { where: string; reason: string }[];
}

export interface Trace {
  documents: string[];
  forgotten: boolean;
  contents: string[];
  chunks: number;
  snapshots: string[];
  indexes: string[];
  elsewhere: string[];
  releases: string[];
  channels: Record<string, string>;
  feedback: number;
  questions: number;
  unfinished: string[];
  stays: string[];
}
