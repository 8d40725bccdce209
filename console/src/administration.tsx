/** The screens that are an administrator's, in a file of their own: nobody else loads them, and nobody waits for them. */

import type { ComponentType } from "preact";

import { Documents } from "./documents";
import { Evaluation } from "./exam";
import { Models } from "./models";
import { Releases } from "./releases";
import { Retrieve } from "./retrieve";
import { Serving } from "./serving";

/** By their path. */
export const SCREENS: Record<string, ComponentType> = {
  retrieve: Retrieve,
  releases: Releases,
  documents: Documents,
  models: Models,
  exam: Evaluation,
  serving: Serving,
};
