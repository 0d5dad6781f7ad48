// What things are, in plain words: a sentence for each part of the page, and the glossary behind the words in it.

export const GLOSSARY = {
  "activation": "What a unit hands on: its sum, after a simple function such as ReLU or sigmoid.",
  "Adam": "The rule that turns gradients into steps (Kingma and Ba, 2015). It follows a running mean of the gradient (m), divided by the root of a running mean of its square (v), so that the size of a step depends on how steadily a weight's gradients agree in sign, and little on how large they are: about the learning rate where they all agree, much less where they change about, and for a while more where gradients grow suddenly.",
  "augmentation": "Showing the network each training photo a little sheared, zoomed and perhaps mirrored, differently in every epoch, so that it cannot learn single pixels by heart.",
  "backward pass": "Working out the gradient of the loss for every number of the network, from the last to the first.",
  "bias": "A number that is added to a unit's sum, the same at every place.",
  "channel": "One of the values that a place holds: red, green and blue in the photo, one for each filter later.",
  "convolution": "One small filter laid upon every place of its input: at each, the numbers below are multiplied by the filter's and added up.",
  "cross-entropy": "The loss used here: minus the logarithm of the probability that the true class was given. 0 for certainty, large for a confident mistake.",
  "dense layer": "Every unit reads every number of the layer before, each with a weight of its own.",
  "epoch": "One pass over all training photos.",
  "feature map": "What one filter finds, place by place: bright where it answers.",
  "filter": "The weights of a convolution that make one feature map; also called a kernel.",
  "finite difference": "A check of a gradient: move one weight a little up, then a little down, and see how the loss differs, divided by how far the weight was moved.",
  "flatten": "The numbers of all maps in one row, so that a dense layer can read them.",
  "gradient": "How fast the loss grows when a number grows: to lessen the loss, weights move against their gradients.",
  "Grad-CAM": "A map of where the last convolution saw what speaks for a class: its maps, each weighted by its mean gradient and added up; then ReLU keeps what is above 0.",
  "loss": "How wrong the network was about this photo, as one number that learning makes smaller.",
  "max-pooling": "Keeping the largest of a few neighbours, and letting the others go.",
  "receptive field": "The part of the photo that can reach a unit: what lies outside cannot change it.",
  "ReLU": "Keeps a positive sum and makes a negative one 0.",
  "sigmoid": "Squeezes any number into the range from 0 to 1, so that it can be read as a probability.",
  "softmax": "Turns several numbers into probabilities that add up to 1.",
  "unit": "One number of a layer: one place of one feature map, or one of a dense layer.",
  "weight": "A number that the network has learned, and that each step of learning changes.",
};

export const SENTENCES = {
  photo: "The photo as the network sees it: small, and as numbers from 0 to 1.",
  conv: "Each map shows where one filter finds its pattern in the maps before.",
  pool: "Each map at half its size or so: of every few neighbours only the largest is kept.",
  flatten: "The numbers of all maps, in one row.",
  dense: "Every unit here reads all numbers of the layer before.",
  activation: "Each number through a simple function.",
  output: "What the network believes, as probabilities.",
};
