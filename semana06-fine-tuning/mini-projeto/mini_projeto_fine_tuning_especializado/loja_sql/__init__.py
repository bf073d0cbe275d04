"""O que está por trás dos scripts do mini-projeto, em salas de portas de mão única."""
