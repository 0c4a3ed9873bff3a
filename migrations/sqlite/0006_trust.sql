-- Which outside workloads act as which robot.
SELECT 1;
